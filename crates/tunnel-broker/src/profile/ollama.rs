use super::{
    Cow, Duration, Lists, Loaded, Method, ModelCall, ModelList, Names, Profile, Recommended, Side, Speaks,
    Text, VersionCheck, ollama_list,
};

/// Ollama: `/api/*`, and OpenAI's API at `/v1/*`. Its version tells that it is one.
pub(crate) static PROFILE: Profile = {
    const LISTS: &[ModelList] = &[ollama_list("/api/tags", Loaded::Elsewhere)];
    Profile {
        name: Text::Borrowed("ollama"),
        product: Text::Borrowed("Ollama"),
        side: Side::Local,
        speaks: Speaks::BOTH,
        health: None,
        version: Some(VersionCheck {
            path: Text::Borrowed("/api/version"),
            member: Text::Borrowed("version"),
            demanded: true,
        }),
        lists: Lists::First(Cow::Borrowed(LISTS)),
        // Not before 0.1.38.
        running: Some(ollama_list("/api/ps", Loaded::All)),
        metrics: None,
        // Without a prompt it only loads, and with no time to stay it only unloads.
        load: Some(ModelCall {
            method: Method::POST,
            path: Text::Borrowed("/api/generate"),
            body: Text::Borrowed(r#"{"model":{model},"keep_alive":{keep_alive},"stream":false}"#),
            answers_when_done: true,
            needs: None,
        }),
        unload: Some(ModelCall {
            method: Method::POST,
            path: Text::Borrowed("/api/generate"),
            body: Text::Borrowed(r#"{"model":{model},"keep_alive":0,"stream":false}"#),
            answers_when_done: true,
            needs: None,
        }),
        names: Names::OLLAMA,
        own_path: None,
        start_step: Text::Borrowed(
            "start it: ollama serve; or set ollamaHost and ollamaPort to where it runs",
        ),
        no_models_step: Text::Borrowed("ollama pull llama3.2:1b"),
        recommended: Some(Recommended {
            oldest: [0, 9, 0],
            update_step: Text::Borrowed("update it: curl -fsSL https://ollama.com/install.sh | sh"),
        }),
        usual_ports: Cow::Borrowed(&[11434]),
        least_interval: Duration::ZERO,
    }
};
