use super::{
    Cow, Duration, HealthCheck, Lists, ModelList, Names, Profile, ROUTER_STATE, Side, Speaks, Text,
    VersionCheck, openai_list, router_call,
};

/// llama.cpp's `llama-server`, with one model or as a router of several.
pub(crate) static PROFILE: Profile = {
    const LISTS: &[ModelList] = &[openai_list("/v1/models", ROUTER_STATE)];
    Profile {
        name: Text::Borrowed("llamacpp"),
        product: Text::Borrowed("llama.cpp's server"),
        side: Side::Local,
        speaks: Speaks::OPENAI,
        health: Some(HealthCheck {
            path: Text::Borrowed("/health"),
            loading: Cow::Borrowed(&[503]),
            in_words: true,
        }),
        // A long document: it holds the chat template, too.
        version: Some(VersionCheck {
            path: Text::Borrowed("/props"),
            member: Text::Borrowed("build_info"),
            demanded: false,
        }),
        lists: Lists::First(Cow::Borrowed(LISTS)),
        running: None,
        // 501 unless it was started with --metrics.
        metrics: Some(Text::Borrowed("/metrics")),
        load: Some(router_call("/models/load")),
        unload: Some(router_call("/models/unload")),
        names: Names::EXACT,
        own_path: Some(Text::Borrowed("/v1")),
        start_step: Text::Borrowed(
            "start it: llama-server -m MODEL.gguf; or mend its url under connections in the config",
        ),
        no_models_step: Text::Borrowed("start it with a model: llama-server -m MODEL.gguf"),
        recommended: None,
        usual_ports: Cow::Borrowed(&[8080, 8081]),
        least_interval: Duration::ZERO,
    }
};
