# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_tunnelctl_global_optspecs
    string join \n url= json q/quiet timeout= color= h/help V/version
end

function __fish_tunnelctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tunnelctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_tunnelctl_using_subcommand
    set -l cmd (__fish_tunnelctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -s V -l version -d 'Print version'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "status" -d 'Show how the tunnel and the connections are'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "start" -d 'Open the tunnel; starts the daemon and looks for model servers where that is needed'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "stop" -d 'Close the tunnel; requests that run may finish'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "restart" -d 'Close the tunnel and open it anew'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "wait" -d 'Wait until the tunnel is up, or until requests would be answered'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "login" -d 'Log in, or store the token that the tunnel is dialled with'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "logout" -d 'Revoke and forget the token; the tunnel goes down'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "whoami" -d 'Show whom the token is for, until when, and where it is kept'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "keys" -d 'Look after keys for apps: tokens that reach the models of this account over the relay'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "connections" -d 'Look after the connections to model servers'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "models" -d 'Look after the models that the connections have'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "explain" -d 'Show which connection a request would go to, and why not to the others'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "devices" -d 'Show the machines of this account, as the relay knows them'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "requests" -d 'Look at the requests that run, and end them'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "usage" -d 'Show what was asked of the models, summed up'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "config" -d 'Look after the configuration'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "connect" -d 'Show how to set up an app, ready to paste'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "ping" -d 'Measure the way to the relay, or to a connection'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "doctor" -d 'Look for what is wrong, and say what to do'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "diag" -d 'Write an archive for a bug report, without secrets'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "logs" -d 'Show the daemon\'s log'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "events" -d 'Show what happened'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "metrics" -d 'Show the daemon\'s metrics, as Prometheus reads them'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "service" -d 'Have tunneld run as a user service of systemd'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "dashboard" -d 'Show the dashboard\'s address'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "completion" -d 'Write completions for a shell'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "man" -d 'Write the manual pages'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "version" -d 'Show the versions of tunnelctl and tunneld'
complete -c tunnelctl -n "__fish_tunnelctl_needs_command" -f -a "help" -d 'Show the help of a command, as `COMMAND --help` does'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -s w -l watch -d 'Go on showing changes; when piped, one line of JSON each'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -l wait -d 'Wait until it is done, at most this long: 30, 30s, 2m' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand start" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -l wait -d 'Wait until it is done, at most this long: 30, 30s, 2m' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand stop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -l wait -d 'Wait until it is done, at most this long: 30, 30s, 2m' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand restart" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -l for -d 'What to wait for: ready, tunnel, connection=ID or model=NAME' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand wait" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l token-file -d 'Read a token from this file' -r -F
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l browser -d 'Log in with a browser of this machine; this is the default on a terminal'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l device-code -d 'Log in with a browser on whatever machine, by typing a code there'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l token-stdin -d 'Read a token from standard input'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l no-wait -d 'Begin the login and leave the rest to the daemon'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logout" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logout" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logout" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logout" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logout" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logout" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand whoami" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand whoami" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand whoami" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand whoami" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand whoami" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand whoami" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -f -a "create" -d 'Make a key, and print it: the only time that it can be seen'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -f -a "list" -d 'Show the keys that were made from this machine'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and not __fish_seen_subcommand_from create list revoke" -f -a "revoke" -d 'Make a key void'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l name -d 'What it is for' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l device -d 'Reach only this desktop' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l model -d 'Ask only for this model, * at the end stands for any rest; may be given several times' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l scope -d 'What it allows; may be given several times. Default: inference' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l paths -d 'What a local key reaches: inference, all, or a rule such as "POST /api/chat", which may be given several times. Default: inference' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l requests-per-minute -d 'Most requests a minute' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l tokens-per-minute -d 'Most tokens a minute, of prompts and answers' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l concurrent -d 'Most requests at once' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l expires -d 'How long it holds: 90d, 12h. Default: as the relay decides; a local one until it is revoked' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l local -d 'Make it here, for callers of this machine\'s gateway'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from list" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from list" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from list" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from list" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "list" -d 'Show all connections'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "test" -d 'Ask a model server now, or all of them'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "add" -d 'Add a model server'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "remove" -d 'Take a connection out of the configuration'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "enable" -d 'Use a connection again'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "disable" -d 'Keep a connection in the configuration, and do not use it'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "detect" -d 'Look for model servers on this machine'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and not __fish_seen_subcommand_from list test add remove enable disable detect credential" -f -a "credential" -d 'Look after the secrets that connections are sent'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from list" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from list" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from list" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from list" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from test" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from test" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from test" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from test" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from test" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l type -d 'What it is; default: what it turns out to be' -r -f -a "ollama\t'Ollama'
openai\t'Any other server with OpenAI\'s API'
llamacpp\t'llama.cpp\'s llama-server'
vllm\t'vLLM'
lmstudio\t'LM Studio'
cloud\t'An account elsewhere: another relay, or a service with Ollama\'s or OpenAI\'s API'"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l id -d 'Its name here; default: made from what it is' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l priority -d 'Which connections are tried first: lower ones' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l weight -d 'Share of the load among those of the same priority' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l max-concurrent -d 'Most requests at once' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l credential -d 'The stored secret that is sent to it; see: tunnelctl connections credential' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from remove" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from remove" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from remove" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from remove" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from remove" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from enable" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from enable" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from enable" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from enable" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from enable" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from enable" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from disable" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from disable" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from disable" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from disable" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from disable" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from disable" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -l add -d 'Add what is found'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from detect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -f -a "list" -d 'Show the names of the secrets that are kept, and where'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -f -a "set" -d 'Keep a secret, read from standard input'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connections; and __fish_seen_subcommand_from credential" -f -a "remove" -d 'Forget a secret'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "list" -d 'Show all models, and which connections have them'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "load" -d 'Load a model into its server\'s memory, and wait until it is there'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "unload" -d 'Take a model out of memory, wherever it is'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "warm" -d 'Keep a model in memory: it is loaded at start, and again when it has left'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "cool" -d 'Do not keep a model in memory any longer'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "alias" -d 'Give a model a name of your own, for apps that insist on one'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and not __fish_seen_subcommand_from list load unload warm cool alias unalias" -f -a "unalias" -d 'Forget a name of your own'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from list" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from list" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from list" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from list" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -l on -d 'On this connection only' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -l keep-alive -d 'How long it stays after its last request: 30m, seconds, or -1 for ever; default: as the server does' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from load" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -l on -d 'On this connection only' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -l on -d 'On this connection only' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from warm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -l on -d 'On this connection only' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from cool" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from alias" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from alias" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from alias" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from alias" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from alias" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from alias" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unalias" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unalias" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unalias" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unalias" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unalias" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand models; and __fish_seen_subcommand_from unalias" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l path -d 'The path that it would be posted to; without it a chat, in Ollama\'s API or else in OpenAI\'s' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l connection -d 'The connection that the request insists on, as with X-Tunnel-Connection' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l session -d 'The session, as in X-Session-Id' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand devices" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand devices" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand devices" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand devices" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand devices" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand devices" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -f -a "list" -d 'Show the requests that run'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -f -a "cancel" -d 'End a request; its caller is told'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and not __fish_seen_subcommand_from list cancel explain" -f -a "explain" -d 'Show where a request that runs is, and since when'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -s w -l watch -d 'Go on showing changes; when piped, one line of JSON each'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from cancel" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from cancel" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from cancel" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from cancel" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from cancel" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from cancel" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from explain" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from explain" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from explain" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from explain" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from explain" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand requests; and __fish_seen_subcommand_from explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l by -d 'What to sum up by' -r -f -a "model\t''
connection\t''
key\t''
day\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l since -d 'From when on: a day such as 2026-01-31, or a time back such as 7d' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l csv -d 'Write comma-separated values'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand usage" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "path" -d 'Show which file is read and written'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "show" -d 'Show every key as it is in force'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "get" -d 'Show one key as it is in force'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "set" -d 'Change one key in the file'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "check" -d 'Say what is wrong with a configuration file, without a daemon'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "edit" -d 'Edit the file in $VISUAL or $EDITOR, and take it over if it is valid'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "diff" -d 'Show how what is in force differs from the defaults'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "reload" -d 'Have the file read anew'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "backup" -d 'Keep a copy of the file'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "restore" -d 'Put a copy of the file back'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "import" -d 'Take over the original system\'s connection_config.json'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "schema" -d 'Write the JSON schema of the file, for editors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and not __fish_seen_subcommand_from path show get set check edit diff reload backup restore import schema init" -f -a "init" -d 'Write a configuration file with every key and its default; needs no daemon'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from path" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from path" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from path" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from path" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from path" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from path" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -l origin -d 'Also show which file, variable or flag each value came from'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from get" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from get" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from get" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from get" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from get" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from set" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from set" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from set" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from set" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from set" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from check" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from check" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from check" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from check" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from check" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from edit" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from edit" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from edit" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from edit" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from edit" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from edit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from diff" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from diff" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from diff" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from diff" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from diff" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from reload" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from reload" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from reload" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from reload" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from reload" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from backup" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from backup" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from backup" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from backup" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from backup" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -l force -d 'Replace a file that has faults, too; it is kept as a copy'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from import" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from import" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from import" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from import" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from import" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from import" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from schema" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from schema" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from schema" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from schema" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from schema" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from schema" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from init" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from init" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from init" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from init" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from init" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand config; and __fish_seen_subcommand_from init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -l model -d 'The model to name; default: the first one that there is' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand connect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -s c -l count -d 'How many times' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand ping" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand doctor" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand doctor" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand doctor" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand doctor" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand doctor" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -s o -l output -d 'Where to write it; default: tunneld-diag-TIME.tar.gz in this directory' -r -F
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand diag" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -l request -d 'Only what is about this request' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -s n -l lines -d 'The last lines' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -s f -l follow -d 'Go on showing what is logged'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand logs" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -s n -l lines -d 'The last ones' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -s f -l follow -d 'Go on showing what happens; when piped, one line of JSON each'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand metrics" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand metrics" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand metrics" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand metrics" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand metrics" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -f -a "install" -d 'Write the units, enable them and start the daemon'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -f -a "uninstall" -d 'Stop the daemon and take away what install wrote; configuration and state stay'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and not __fish_seen_subcommand_from install uninstall status" -f -a "status" -d 'Show how the service stands; ends with code 3 when it does not run'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l tunneld -d 'Start this daemon' -r -F
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l socket -d 'Let systemd hold the ports, so that a restart refuses nobody; this is the default'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l no-socket -d 'Let the daemon open its ports itself'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l no-sandbox -d 'Go without the parts of the sandbox that need user namespaces, where the system forbids them'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l force -d 'Replace units that were changed by hand; they are kept as .bak'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from install" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -l force -d 'Also take away units that were changed by hand; they are kept as .bak'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from uninstall" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from status" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from status" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from status" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from status" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from status" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand service; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand dashboard" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand dashboard" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand dashboard" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand dashboard" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand dashboard" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand dashboard" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand completion" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand completion" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand completion" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand completion" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand completion" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand completion" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -l directory -d 'Into this directory, a file each; without it the main page goes to standard output' -r -F
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand version" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand version" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand version" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand version" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand version" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand version" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand help" -l url -d 'Ask the daemon at this address, http://… or unix:///…' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand help" -l timeout -d 'Wait this long for each answer: 60s, 2m, 500ms, or seconds' -r
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand help" -l color -d 'Use colour' -r -f -a "auto\t''
always\t''
never\t''"
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand help" -l json -d 'Answer in JSON, which is stable; text for people is not'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand help" -s q -l quiet -d 'Say nothing but answers and errors'
complete -c tunnelctl -n "__fish_tunnelctl_using_subcommand help" -s h -l help -d 'Print help (see more with \'--help\')'
