use super::{
    Cow, Duration, HealthCheck, Lists, ModelList, NO_MODELS_STEP, Names, Profile, ROUTER_STATE, START_STEP,
    Side, Speaks, Text, openai_list, router_call,
};

/// Any server with OpenAI's API: what all of them have in common, and what is harmless to ask of those that lack it.
pub(crate) static PROFILE: Profile = {
    const LISTS: &[ModelList] = &[openai_list("/v1/models", ROUTER_STATE)];
    Profile {
        name: Text::Borrowed("openai"),
        product: Text::Borrowed("a server with OpenAI's API"),
        side: Side::Local,
        speaks: Speaks::OPENAI,
        // llama.cpp answers 503 until the model is in memory; it may be one.
        health: Some(HealthCheck {
            path: Text::Borrowed("/health"),
            loading: Cow::Borrowed(&[503]),
            in_words: true,
        }),
        version: None,
        lists: Lists::First(Cow::Borrowed(LISTS)),
        running: None,
        metrics: None,
        // It may be llama.cpp's router.
        load: Some(router_call("/models/load")),
        unload: Some(router_call("/models/unload")),
        names: Names::EXACT,
        own_path: Some(Text::Borrowed("/v1")),
        start_step: START_STEP,
        no_models_step: NO_MODELS_STEP,
        recommended: None,
        usual_ports: Cow::Borrowed(&[]),
        least_interval: Duration::ZERO,
    }
};
