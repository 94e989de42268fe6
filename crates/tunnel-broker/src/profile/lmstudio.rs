use super::{
    Cow, Duration, Lists, Loaded, Method, ModelCall, ModelList, Names, Profile, Side, Speaks, Text,
    openai_list,
};

/// LM Studio: its own list tells which models are in memory; the others it loads when they are asked for.
pub(crate) static PROFILE: Profile = {
    const VALUES: &[Text] = &[Text::Borrowed("loaded")];
    const STATE: Loaded = Loaded::Told { at: Text::Borrowed("/state"), values: Cow::Borrowed(VALUES) };
    // Before 0.3.6 it has the second one only, which says nothing of memory.
    const LISTS: &[ModelList] =
        &[openai_list("/api/v0/models", STATE), openai_list("/v1/models", Loaded::Elsewhere)];
    Profile {
        name: Text::Borrowed("lmstudio"),
        product: Text::Borrowed("LM Studio"),
        side: Side::Local,
        speaks: Speaks::OPENAI,
        health: None,
        version: None,
        lists: Lists::First(Cow::Borrowed(LISTS)),
        running: None,
        metrics: None,
        // Since 0.4; older ones answer 404.
        load: Some(ModelCall {
            method: Method::POST,
            path: Text::Borrowed("/api/v1/models/load"),
            body: Text::Borrowed(r#"{"model":{model}}"#),
            answers_when_done: false,
            needs: None,
        }),
        // The first instance of a model is called like the model.
        unload: Some(ModelCall {
            method: Method::POST,
            path: Text::Borrowed("/api/v1/models/unload"),
            body: Text::Borrowed(r#"{"instance_id":{model}}"#),
            answers_when_done: false,
            needs: None,
        }),
        names: Names::EXACT,
        own_path: Some(Text::Borrowed("/v1")),
        start_step: Text::Borrowed(
            "start its server: lms server start; or mend its url under connections in the config",
        ),
        no_models_step: Text::Borrowed("download a model there: lms get MODEL"),
        recommended: None,
        usual_ports: Cow::Borrowed(&[1234]),
        least_interval: Duration::ZERO,
    }
};
