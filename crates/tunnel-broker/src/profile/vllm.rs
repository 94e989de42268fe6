use super::{
    Cow, Duration, HealthCheck, Lists, Loaded, ModelList, Names, Profile, Side, Speaks, Text, VersionCheck,
    openai_list,
};

/// vLLM: one model a server, in memory from the first to the last moment. It listens when the model is loaded.
///
/// Its sleep mode is left alone: a server that was put to sleep does not wake for a request, and its endpoints exist only
/// in a mode for developers.
pub(crate) static PROFILE: Profile = {
    const LISTS: &[ModelList] = &[openai_list("/v1/models", Loaded::All)];
    Profile {
        name: Text::Borrowed("vllm"),
        product: Text::Borrowed("vLLM"),
        side: Side::Local,
        speaks: Speaks::OPENAI,
        // An empty 200. Its 503 means that the engine is dead, and not that it loads.
        health: Some(HealthCheck {
            path: Text::Borrowed("/health"),
            loading: Cow::Borrowed(&[]),
            in_words: false,
        }),
        version: Some(VersionCheck {
            path: Text::Borrowed("/version"),
            member: Text::Borrowed("version"),
            demanded: false,
        }),
        lists: Lists::First(Cow::Borrowed(LISTS)),
        running: None,
        metrics: Some(Text::Borrowed("/metrics")),
        load: None,
        unload: None,
        names: Names::EXACT,
        own_path: Some(Text::Borrowed("/v1")),
        start_step: Text::Borrowed(
            "start it: vllm serve MODEL; or mend its url under connections in the config",
        ),
        no_models_step: Text::Borrowed("start it with a model: vllm serve MODEL"),
        recommended: None,
        usual_ports: Cow::Borrowed(&[8000]),
        least_interval: Duration::ZERO,
    }
};
