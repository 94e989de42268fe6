//! What is pasted into each app.
//!
//! What goes into a shell has no comments: zsh takes none at its prompt.

use super::quote::{literal, shell};
use super::target::Target;
use crate::cli::App;

/// What a first answer is asked for with.
const PROMPT: &str = "Say hello in one sentence.";
/// Stands for a key where an app insists on one; the gateway looks at none.
const NO_KEY: &str = "none";

/// What is pasted, and where.
#[derive(Debug)]
pub(super) struct Snippet {
    pub(super) text: String,
    /// One sentence, for the person who pastes.
    pub(super) place: String,
}

impl Snippet {
    pub(super) fn of(app: App, target: &Target) -> Self {
        let (text, place) = match app {
            App::Curl => (curl(target), "paste it into a shell".to_owned()),
            App::Python => {
                (python(target), "save it as hello.py; then: pip install openai && python hello.py".to_owned())
            }
            App::Javascript => {
                (javascript(target), "save it as hello.mjs; then: npm install openai && node hello.mjs".to_owned())
            }
            App::Ollama => (
                ollama(target),
                "paste it into a shell; the variable holds for all programs that it starts, and Ollama's libraries \
                 read it too"
                    .to_owned(),
            ),
            App::OpenWebui => (
                open_webui(target),
                "paste it into a shell, then open http://127.0.0.1:3000. An Open WebUI that was set up before has its own \
                 settings: add the address under Admin Settings, Connections. In a container it takes the same variables \
                 and the host's network, and must run as this user, as with rootless Podman"
                    .to_owned(),
            ),
            App::Continue => (
                continue_dev(target),
                "save it as ~/.continue/config.yaml; if there is one, add the entry below models to it".to_owned(),
            ),
            App::Zed => (
                zed(target),
                "merge it into ~/.config/zed/settings.json. Zed asks for a key in the agent's settings, where any text \
                 will do, or takes it from a variable: TUNNELD_API_KEY=none zed. max_tokens is how much of a \
                 conversation the model is sent; set it to the context that the model is loaded with"
                    .to_owned(),
            ),
            App::Aider => (aider(target), "paste it into a shell, in the project's directory".to_owned()),
            App::Llm => (
                llm(target),
                format!(
                    "add it to extra-openai-models.yaml in the directory of: llm logs path; then: llm -m {} 'Say hello'",
                    shell(&llm_id(target))
                ),
            ),
        };
        Self { text, place }
    }
}

fn curl(target: &Target) -> String {
    let body = format!(
        r#"{{"model": {}, "stream": true, "messages": [{{"role": "user", "content": {}}}]}}"#,
        literal(&target.model),
        literal(PROMPT)
    );
    format!(
        "curl -sSN {}/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -d {}\n",
        target.openai(),
        shell(&body)
    )
}

fn python(target: &Target) -> String {
    format!(
        r#"from openai import OpenAI

# No key is needed on this machine, but the library insists on one.
client = OpenAI(base_url={url}, api_key={NO_KEY:?})
stream = client.chat.completions.create(
    model={model},
    messages=[{{"role": "user", "content": {PROMPT:?}}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
"#,
        url = literal(&target.openai()),
        model = literal(&target.model)
    )
}

fn javascript(target: &Target) -> String {
    format!(
        r#"import OpenAI from "openai";

// No key is needed on this machine, but the library insists on one.
const client = new OpenAI({{ baseURL: {url}, apiKey: {NO_KEY:?} }});
const stream = await client.chat.completions.create({{
  model: {model},
  messages: [{{ role: "user", content: {PROMPT:?} }}],
  stream: true,
}});
for await (const chunk of stream) {{
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}}
console.log();
"#,
        url = literal(&target.openai()),
        model = literal(&target.model)
    )
}

fn ollama(target: &Target) -> String {
    // A name that begins with a hyphen would be taken for an option.
    let end_of_options = if target.model.starts_with('-') { "-- " } else { "" };
    format!(
        "export OLLAMA_HOST={}\nollama run {end_of_options}{} {}\n",
        target.ollama(),
        shell(&target.model),
        shell(PROMPT)
    )
}

/// It runs as this user, whom the gateway lets in; the usual container runs as another one. Models are chosen in it.
fn open_webui(target: &Target) -> String {
    format!(
        "DATA_DIR=~/.open-webui \\\n\
         ENABLE_OLLAMA_API=false \\\n\
         OPENAI_API_BASE_URL={} \\\n\
         OPENAI_API_KEY={NO_KEY} \\\n\
         uvx --python 3.11 open-webui@latest serve --host 127.0.0.1 --port 3000\n",
        target.openai()
    )
}

fn continue_dev(target: &Target) -> String {
    format!(
        "name: Local models\n\
         version: 1.0.0\n\
         schema: v1\n\
         models:\n  \
           - name: {name}\n    \
             provider: openai\n    \
             model: {model}\n    \
             apiBase: {url}\n    \
             # No key is needed on this machine, but some versions insist on one.\n    \
             apiKey: {NO_KEY}\n",
        name = literal(&format!("{} (tunneld)", target.model)),
        model = literal(&target.model),
        url = literal(&target.openai())
    )
}

fn zed(target: &Target) -> String {
    format!(
        r#"{{
  "language_models": {{
    "openai_compatible": {{
      "tunneld": {{
        "api_url": {url},
        "available_models": [
          {{ "name": {model}, "display_name": {name}, "max_tokens": 8192 }}
        ]
      }}
    }}
  }}
}}
"#,
        url = literal(&target.openai()),
        model = literal(&target.model),
        name = literal(&format!("{} (tunneld)", target.model))
    )
}

fn aider(target: &Target) -> String {
    format!(
        "export OPENAI_API_BASE={}\nexport OPENAI_API_KEY={NO_KEY}\naider --model {}\n",
        target.openai(),
        shell(&format!("openai/{}", target.model))
    )
}

fn llm(target: &Target) -> String {
    format!(
        "- model_id: {}\n  model_name: {}\n  api_base: {}\n",
        literal(&llm_id(target)),
        literal(&target.model),
        literal(&target.openai())
    )
}

/// Returns a name that no other model of llm has.
fn llm_id(target: &Target) -> String {
    format!("tunneld/{}", target.model)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use serde_json::{Map, Value};
    use tunnel_api::Status;

    use super::*;

    /// What would end each of the quotes, and start something else.
    const ODD: &str = r#"o'dd" $(false) `false` \ : #{x} größe/3:1b"#;

    fn snippet(app: App, model: &str) -> String {
        let app_of_choice = App::Curl;
        let target =
            Target::choose(&Map::new(), &[], &Status::default(), app_of_choice, Some(model)).unwrap();
        Snippet::of(app, &target).text
    }

    /// Runs a snippet with a program of this name that shows its arguments, one a line.
    fn arguments(program: &str, script: &str) -> Vec<String> {
        let script = format!("{program}() {{ printf '%s\\n' \"$@\"; }}\n{script}");
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn curl_sends_the_name_as_it_is() {
        let arguments = arguments("curl", &snippet(App::Curl, ODD));
        assert_eq!(arguments[1], "http://127.0.0.1:11435/v1/chat/completions");
        let body: Value = serde_json::from_str(arguments.last().unwrap()).unwrap();
        assert_eq!((&body["model"], &body["stream"]), (&Value::from(ODD), &Value::Bool(true)));
    }

    #[test]
    fn shells_pass_the_name_as_it_is() {
        assert_eq!(arguments("ollama", &snippet(App::Ollama, ODD)), ["run", ODD, PROMPT]);
        assert_eq!(arguments("ollama", &snippet(App::Ollama, "-x")), ["run", "--", "-x", PROMPT]);
        assert_eq!(arguments("aider", &snippet(App::Aider, ODD)), ["--model", &format!("openai/{ODD}")]);
        let served = arguments("uvx", &snippet(App::OpenWebui, ODD));
        assert_eq!(served[..3], ["--python", "3.11", "open-webui@latest"]);
    }

    #[test]
    fn settings_of_zed_are_json() {
        let settings: Value = serde_json::from_str(&snippet(App::Zed, ODD)).unwrap();
        let provider = &settings["language_models"]["openai_compatible"]["tunneld"];
        assert_eq!(provider["api_url"], "http://127.0.0.1:11435/v1");
        assert_eq!(provider["available_models"][0]["name"], ODD);
    }

    #[test]
    fn python_and_javascript_are_read_by_their_own_programs() {
        for (app, model) in [(App::Python, ODD), (App::Javascript, ODD)] {
            assert!(snippet(app, model).contains(&literal(model)));
        }
        let python = snippet(App::Python, ODD);
        let check = "import ast, sys; tree = ast.parse(sys.argv[1]); \
                     print(*[k.value.value for c in ast.walk(tree) if isinstance(c, ast.Call) \
                     for k in c.keywords if k.arg == 'model'])";
        // Where there is no Python the literal alone is judged, as JSON in its own test.
        let Ok(output) = std::process::Command::new("python3").args(["-c", check, &python]).output() else {
            return;
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), ODD, "{output:?}");
    }

    #[test]
    fn yaml_has_a_key_and_a_literal_on_each_line() {
        let text = snippet(App::Continue, ODD);
        let model = text.lines().find_map(|line| line.strip_prefix("    model: ")).unwrap();
        assert_eq!(serde_json::from_str::<String>(model).unwrap(), ODD);
        let text = snippet(App::Llm, ODD);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("  model_name: {}", literal(ODD)));
    }

    #[test]
    fn each_app_is_sent_to_the_gateway_and_no_shell_gets_a_comment() {
        for app in App::value_variants() {
            let text = snippet(*app, "m");
            assert!(text.contains("http://127.0.0.1:11435"), "{app:?}");
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{app:?}");
            if matches!(app, App::Curl | App::Ollama | App::OpenWebui | App::Aider) {
                assert!(!text.contains('#'), "{app:?}");
            }
        }
    }
}
