use std::num::NonZeroU32;

use super::*;
use crate::auth::Scopes;

fn load(text: &str) -> Result<Settings, SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.toml");
    std::fs::write(&path, text).unwrap();
    Settings::load(&path)
}

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse(text, Path::new("/etc/tunnel-relay/relay.toml"))
}

fn faults(text: &str) -> Vec<String> {
    match parse(text).unwrap_err() {
        SettingsError::Faults { faults, .. } => faults,
        error => panic!("{error}"),
    }
}

/// Asserts that there is this one fault.
fn only_fault(text: &str, wanted: &str) {
    let faults = faults(text);
    assert!(faults.len() == 1 && faults[0].starts_with(wanted), "{wanted}\n{faults:#?}\nof\n{text}");
}

const ISSUER: &str =
    "[[issuers]]\nname = \"id\"\nissuer = \"https://id.example.org/\"\naudiences = [\"relay\"]\n";

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(load("# nothing\n").unwrap(), Settings::default());
    let tables = "[edge]\n[address]\n[tiers.default]\n[audit]\n";
    assert_eq!(load(tables).unwrap(), Settings::default());
}

#[test]
fn keys_of_the_first_version_are_taken() {
    let text = "max_streams_per_subject = 7\nmax_devices_per_subject = 2\nfirst_byte_timeout_s = 3\n\
                idle_timeout_s = 4\nheader_read_timeout_s = 5\nsession_grace_s = 6\nreplay_window_bytes = 65536\n";
    let settings = Settings {
        default_tier: Tier { max_streams: 7, max_devices: 2, ..Tier::default() },
        edge: EdgeSettings { header_read_timeout: Duration::from_secs(5), ..EdgeSettings::default() },
        first_byte_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(4),
        session_grace: Duration::from_secs(6),
        replay_window_bytes: 65_536,
        ..Settings::default()
    };
    assert_eq!(load(text).unwrap(), settings);
}

#[test]
fn each_table_is_taken() {
    let text = "max_key_ttl_s = 86400\nmax_tiered_key_ttl_s = 3600\ndevice_wait_s = 7\n\
        [edge]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\nproxy_header = \"Forwarded\"\nallowed_origins = [\"https://chat.example.org\"]\n\
        hsts_max_age_s = 0\ntls_handshake_timeout_s = 2\nheader_read_timeout_s = 3\nkeep_alive_timeout_s = 4\n\
        min_upload_bytes_per_second = 0\nunread_timeout_s = 6\n\
        [tls]\ncertificate = \"cert.pem\"\nkey = \"/keys/key.pem\"\n\
        [address]\nrequests_per_minute = 600\nburst = 50\nmax_connections = 9\nrefused_tokens_per_minute = 0\n\
        [tiers.default]\nmax_streams = 3\n\
        [tiers.free]\nrequests_per_minute = 20\nburst = 5\nmax_streams = 4\nmax_devices = 1\ndials_per_minute = 6\n\
        max_body_bytes = 1000\n\
        bytes_per_second = 65536\n\
        [audit]\nfile = \"/var/log/relay/audit.jsonl\"\n";
    let settings = parse(text).unwrap();
    let n = NonZeroU32::new;
    let wanted = Settings {
        max_key_ttl: Duration::from_secs(86_400),
        max_tiered_key_ttl: Duration::from_secs(3_600),
        device_wait: Duration::from_secs(7),
        edge: EdgeSettings {
            tls: Some(TlsSettings::Files {
                certificate: "/etc/tunnel-relay/cert.pem".into(),
                key: "/keys/key.pem".into(),
            }),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            proxy_header: ProxyHeader::Forwarded,
            allowed_origins: vec!["https://chat.example.org".into()],
            hsts_max_age: Duration::ZERO,
            tls_handshake_timeout: Duration::from_secs(2),
            header_read_timeout: Duration::from_secs(3),
            keep_alive_timeout: Duration::from_secs(4),
            min_upload_bytes_per_second: 0,
            unread_timeout: Duration::from_secs(6),
        },
        address: AddressLimits {
            requests_per_minute: n(600),
            burst: n(50),
            max_connections: 9,
            refused_tokens_per_minute: None,
        },
        default_tier: Tier { max_streams: 3, ..Tier::default() },
        tiers: BTreeMap::from([(
            "free".to_owned(),
            Tier {
                requests_per_minute: n(20),
                burst: n(5),
                max_streams: 4,
                max_devices: 1,
                dials_per_minute: n(6),
                max_body_bytes: Some(1_000),
                bytes_per_second: n(65_536),
            },
        )]),
        audit_file: Some("/var/log/relay/audit.jsonl".into()),
        ..Settings::default()
    };
    assert_eq!(settings, wanted);
    assert_eq!(settings.tier(Some("free")).max_streams, 4);
    assert_eq!(settings.tier(Some("gold")).max_streams, 3);
    assert_eq!(settings.tier(None).max_streams, 3);
}

#[test]
fn issuers_and_login_are_taken() {
    let text = format!(
        "{ISSUER}\n[[issuers]]\nname = \"supabase\"\nissuer = \"https://abc.supabase.co/auth/v1\"\n\
         audiences = [\"authenticated\"]\nsecret_file = \"jwt-secret\"\ntier_claim = \"app_metadata.tier\"\n\
         scopes = [\"inference\"]\nleeway_s = 5\n\
         [[issuers]]\nname = \"kc\"\nissuer = \"kc\"\naudiences = [\"a\", \"b\"]\njwks_url = \"http://127.0.0.1:4000/jwks\"\n\
         algorithms = [\"ES256\"]\ntenant_claim = \"org_id\"\nscope_claim = \"scope\"\n\
         [login]\nissuer = \"id\"\nclient_id = \"desktop\"\naudience = \"relay\"\nresource = \"urn:relay\"\n"
    );
    let settings = parse(&text).unwrap();
    let [id, supabase, kc] = &settings.issuers[..] else { panic!("{settings:?}") };
    assert_eq!((id.keys.clone(), id.tenant_claim.as_str()), (KeySource::Discovery, "sub"));
    assert_eq!(id.scopes, Scopes::parse("tunnel inference account"));
    assert!(
        id.algorithms.iter().any(|name| name == "RS256")
            && !id.algorithms.iter().any(|name| name.starts_with("HS"))
    );
    assert_eq!(id.leeway, Duration::from_secs(60));
    assert_eq!(supabase.keys, KeySource::SecretFile("/etc/tunnel-relay/jwt-secret".into()));
    assert_eq!(supabase.algorithms, ["HS256"]);
    assert_eq!(supabase.tier_claim.as_deref(), Some("app_metadata.tier"));
    assert_eq!((supabase.scopes, supabase.leeway), (Scopes::parse("inference"), Duration::from_secs(5)));
    assert!(matches!(&kc.keys, KeySource::Jwks(url) if url.as_str() == "http://127.0.0.1:4000/jwks"));
    assert_eq!((kc.algorithms.as_slice(), kc.tenant_claim.as_str()), (&["ES256".to_owned()][..], "org_id"));
    let login = settings.login.unwrap();
    assert_eq!(login.scope, "openid offline_access");
    assert_eq!((login.audience.as_deref(), login.resource.as_deref()), (Some("relay"), Some("urn:relay")));
}

#[test]
fn what_is_shown_says_the_same_again() {
    let text = format!(
        "{ISSUER}jwks_url = \"https://id.example.org/keys\"\ntier_claim = \"a.b\"\nscope_claim = \"scp\"\n\
         [login]\nissuer = \"two\"\nclient_id = \"d \\\"quoted\\\"\"\nresource = \"r\"\n\
         [[issuers]]\nname = \"two\"\nissuer = \"https://two.example.org\"\naudiences = [\"x\"]\nscopes = []\n\
         [acme]\ndomains = [\"relay.example.org\"]\ncontact = \"mailto:ops@example.org\"\nca_file = \"/ca.pem\"\n\
         [tiers.\"höher.besser\"]\nmax_body_bytes = 5\nbytes_per_second = 1024\n[audit]\nfile = \"a.jsonl\"\n"
    );
    let settings = parse(&text).unwrap();
    let shown = settings.to_toml();
    assert_eq!(parse(&shown).unwrap(), settings, "{shown}");
    assert_eq!(parse(&Settings::default().to_toml()).unwrap(), Settings::default());
}

#[test]
fn five_faults_are_five_sentences() {
    let text = "idle_timeout = 4\nsession_grace_s = 0\nfirst_byte_timeout_s = \"long\"\nheader_read_timeout_s = 1.5\n\
                colour = \"red\"\n";
    let error = load(text).unwrap_err();
    let SettingsError::Faults { faults, .. } = &error else { panic!("{error}") };
    assert_eq!(faults.len(), 5, "{error}");
    let text = error.to_string();
    assert!(text.contains("did you mean idle_timeout_s?"), "{text}");
    assert!(text.contains("session_grace_s: must be a whole number from 1 to 3600"), "{text}");
    assert!(text.contains("colour: there is no such key"), "{text}");
}

#[test]
fn a_fault_names_its_key_in_full_and_what_was_meant() {
    let cases = [
        (
            "[edge]\nunread_timeout = 3\n",
            "edge.unread_timeout: there is no such key; did you mean edge.unread_timeout_s?",
        ),
        (
            "[tiers.free]\nmax_stream = 3\n",
            "tiers.free.max_stream: there is no such key; did you mean tiers.free.max_streams?",
        ),
        ("[edges]\n", "edges: there is no such key; did you mean edge?"),
        ("[tiers.free]\nmax_streams = \"3\"\n", "tiers.free.max_streams: must be a whole number from 1 to"),
        ("[tiers.free]\nmax_streams = 3.0\n", "tiers.free.max_streams: must be a whole number"),
        ("[tiers.free]\nmax_streams = true\n", "tiers.free.max_streams: must be a whole number"),
        ("[tiers.free]\nburst = 3\n", "tiers.free.burst: means nothing without requests_per_minute"),
        ("[tiers]\nfree = 3\n", "tiers.free: must be a table"),
        ("[tiers.\"a b\"]\n", "tiers.a b: a tier's name must be"),
        ("tiers = 3\n", "tiers: must be tables with names"),
        ("[[edge]]\n", "edge: must be a table"),
        ("[issuers]\n", "issuers: must be a list of tables"),
        ("[address]\nburst = 1\n", "address.burst: means nothing"),
        (
            "max_streams_per_subject = 1\n[tiers.default]\nmax_streams = 1\n",
            "tiers.default.max_streams: says the same",
        ),
        (
            "header_read_timeout_s = 1\n[edge]\nheader_read_timeout_s = 1\n",
            "edge.header_read_timeout_s: says the same",
        ),
        (
            "[edge]\nallowed_origins = [\"https://a.example\", \"*\"]\n",
            "edge.allowed_origins[1]: must be an origin",
        ),
        ("[edge]\nallowed_origins = \"https://a.example\"\n", "edge.allowed_origins: must be a list"),
        ("[edge]\nproxy_header = \"x-real-ip\"\n", "edge.proxy_header: must be x-forwarded-for or forwarded"),
        ("[edge]\ntrusted_proxies = [7]\n", "edge.trusted_proxies[0]: must be text"),
        ("[tls]\ncertificate = \"c\"\n", "tls.key: is missing"),
        ("[tls]\ncertificate = \"c\"\nkey = \"\"\n", "tls.key: must be text"),
        ("[acme]\ndomains = []\n", "acme.domains: must name 1 to 100"),
        ("[acme]\n", "acme.domains: is missing"),
        (
            "[acme]\ndomains = [\"a.b\"]\ndirectory = \"http://ca.example.org\"\n",
            "acme.directory: must be an address",
        ),
        (
            "[acme]\ndomains = [\"a.b\"]\n[tls]\ncertificate = \"c\"\nkey = \"k\"\n",
            "acme: stands beside [tls]",
        ),
        ("[audit]\nfile = 3\n", "audit.file: must be text"),
        ("[audit]\nfile = \"audit.head\"\n", "audit.file: must not end with .head"),
    ];
    for (text, wanted) in cases {
        only_fault(text, wanted);
    }
}

#[test]
fn claims_that_users_write_are_warned_of() {
    let warnings = |more: &str| {
        parse(&format!("[tiers.default]\nmax_body_bytes = 1\n{ISSUER}{more}")).unwrap().warnings()
    };
    for (key, path) in [
        ("tenant_claim", "user_metadata.team"),
        ("tier_claim", "user_metadata.tier"),
        ("scope_claim", "user_metadata"),
    ] {
        let told = warnings(&format!("{key} = \"{path}\"\n"));
        assert!(
            told.len() == 1 && told[0].starts_with(&format!("issuers.id.{key}: users may change {path} ")),
            "{told:?}"
        );
    }
    for fine in ["", "tier_claim = \"app_metadata.tier\"\n", "tenant_claim = \"user_metadata_x\"\n"] {
        assert_eq!(warnings(fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_default_tier_without_limits_is_warned_of_where_tiers_are_meant() {
    let warnings = |text: &str| parse(text).unwrap().warnings();
    let free = "[tiers.free]\nrequests_per_minute = 20\n";
    for unlimited in [
        free.to_owned(),
        format!("{free}[tiers.default]\nmax_streams = 3\n"),
        format!("{ISSUER}tier_claim = \"tier\"\n"),
    ] {
        let told = warnings(&unlimited);
        assert!(told.len() == 1 && told[0].starts_with("tiers.default: a token "), "{unlimited}{told:?}");
    }
    for fine in [
        String::new(),
        ISSUER.to_owned(),
        "[tiers.premium]\nmax_streams = 300\n".to_owned(),
        format!("{free}[tiers.default]\nrequests_per_minute = 5\n"),
    ] {
        assert_eq!(warnings(&fine), [""; 0], "{fine}");
    }
}

#[test]
fn an_issuer_that_would_take_foreign_tokens_is_refused() {
    let base = "name = \"id\"\nissuer = \"https://id.example.org/\"\n";
    let cases = [
        ("", "issuers[0].audiences: is missing"),
        ("audiences = []\n", "issuers[0].audiences: must not be empty"),
        ("audiences = [\"a\"]\nalgorithms = [\"none\"]\n", "issuers[0].algorithms[0]: is no algorithm"),
        ("audiences = [\"a\"]\nalgorithms = [\"HS256\"]\n", "issuers[0].algorithms[0]: is no algorithm"),
        ("audiences = [\"a\"]\nalgorithms = []\n", "issuers[0].algorithms: must not be empty"),
        (
            "audiences = [\"a\"]\nsecret_file = \"s\"\nalgorithms = [\"RS256\"]\n",
            "issuers[0].algorithms[0]: is no algorithm",
        ),
        (
            "audiences = [\"a\"]\nsecret_file = \"s\"\njwks_url = \"https://a.b/\"\n",
            "issuers[0].secret_file: stands beside",
        ),
        ("audiences = [\"a\"]\njwks_url = \"http://a.b/\"\n", "issuers[0].jwks_url: must be an address"),
        (
            "audiences = [\"a\"]\nscopes = [\"inferenc\"]\n",
            "issuers[0].scopes[0]: is no scope; did you mean inference?",
        ),
        ("audiences = [\"a\"]\nleeway_s = 86400\n", "issuers[0].leeway_s: must be a whole number"),
    ];
    for (text, wanted) in cases {
        only_fault(&format!("[[issuers]]\n{base}{text}"), wanted);
    }
    let plain = "[[issuers]]\nname = \"id\"\nissuer = \"http://id.example.org/\"\naudiences = [\"a\"]\n";
    only_fault(plain, "issuers[0].issuer: must be an address that begins with https://");
    let second = ISSUER.replace("https://id", "https://id2");
    only_fault(&format!("{ISSUER}{second}"), "issuers[1].name: is id a second time");
    let second = ISSUER.replace("\"id\"", "\"id2\"");
    only_fault(&format!("{ISSUER}{second}"), "issuers[1].issuer: stands for another");
    only_fault(&ISSUER.replace("\"id\"", "\"local\""), "issuers[0].name: is the relay's own issuer");
}

#[test]
fn login_is_at_an_issuer_that_says_where() {
    let login = "[login]\nissuer = \"id\"\nclient_id = \"c\"\n";
    assert!(parse(&format!("{ISSUER}{login}")).is_ok());
    only_fault(login, "login.issuer: must be the name of one of the [[issuers]]; there are no [[issuers]]");
    let other = ISSUER.replace("\"id\"", "\"ids\"");
    only_fault(
        &format!("{other}{login}"),
        "login.issuer: must be the name of one of the [[issuers]]; did you mean ids?",
    );
    let keyed = format!("{ISSUER}jwks_url = \"https://id.example.org/keys\"\n{login}");
    only_fault(&keyed, "login.issuer: must be an issuer by discovery");
    only_fault(&format!("{ISSUER}[login]\nissuer = \"id\"\n"), "login.client_id: is missing");
}

#[test]
fn bad_syntax_a_missing_file_and_one_without_end_are_named() {
    assert!(matches!(load("idle_timeout_s = ").unwrap_err(), SettingsError::Syntax { .. }));
    assert!(matches!(load("a = 1\na = 2\n").unwrap_err(), SettingsError::Syntax { .. }));
    let error = Settings::load(Path::new("/nonexistent/relay.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/relay.toml"));
    assert!(error.faults()[0].contains("No such file"), "{:?}", error.faults());
    assert!(matches!(Settings::load(Path::new("/dev/zero")).unwrap_err(), SettingsError::Read { .. }));
    let long = "#".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1);
    assert!(matches!(load(&long).unwrap_err(), SettingsError::Read { .. }));
}

const EXAMPLE: &str = include_str!("../../../../dist/relay.example.toml");

/// Takes the marks off: of defaults, and of those that stand for what has none.
fn uncommented(mark: &str, text: &str) -> String {
    let setting = |line: &str| {
        let rest = line.strip_prefix(mark)?;
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[').then(|| rest.to_owned())
    };
    text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn the_example_file_says_every_default() {
    assert_eq!(parse(EXAMPLE).unwrap(), Settings::default());
    let set = uncommented("#", EXAMPLE);
    assert_eq!(parse(&set).unwrap(), Settings::default());
    for line in Settings::default().to_toml().lines() {
        assert!(set.lines().any(|have| have == line), "{line} is not in the example");
    }
}

#[test]
fn each_block_of_the_example_is_valid_and_all_keys_are_in_it() {
    let blocks: Vec<String> = EXAMPLE
        .split("\n\n")
        .filter(|block| block.contains("\n##"))
        .map(|block| uncommented("##", block))
        .collect();
    assert_eq!(blocks.len(), 6);
    for block in &blocks {
        let settings = parse(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
        for line in settings.to_toml().lines().filter(|line| !Settings::default().to_toml().contains(line)) {
            let key = line.split(" = ").next().unwrap();
            assert!(blocks.iter().any(|block| block.contains(key)), "{key} is not in the example");
        }
    }
}

#[test]
fn the_example_of_tiers_is_valid() {
    let settings = parse(include_str!("../../../../dist/relay.tiers.example.toml")).unwrap();
    let (free, premium) = (settings.tier(Some("free")), settings.tier(Some("premium")));
    assert_eq!(free, &settings.default_tier);
    assert_eq!(settings.warnings(), [""; 0]);
    assert!(premium.requests_per_minute > free.requests_per_minute && premium.bytes_per_second.is_none());
}
