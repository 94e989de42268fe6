use super::{
    Cow, Duration, Lists, Loaded, ModelList, Names, Profile, Side, Speaks, Text, ollama_list, openai_list,
};

/// An account elsewhere, reached with a token: another relay, or a service with Ollama's or OpenAI's API.
///
/// Only its lists are asked for, and rarely: of an account that is paid for nobody wants to pay for questions. What else
/// it has of its own is nobody's business here, so it is asked for nothing beside the two APIs.
pub(crate) static PROFILE: Profile = {
    const LISTS: &[ModelList] =
        &[ollama_list("/api/tags", Loaded::Elsewhere), openai_list("/v1/models", Loaded::Elsewhere)];
    Profile {
        name: Text::Borrowed("cloud"),
        product: Text::Borrowed("a cloud account"),
        side: Side::Cloud,
        speaks: Speaks { ollama: true, openai: true, other: false },
        health: None,
        version: None,
        lists: Lists::Every(Cow::Borrowed(LISTS)),
        running: None,
        metrics: None,
        load: None,
        unload: None,
        names: Names::OLLAMA,
        own_path: Some(Text::Borrowed("/v1")),
        start_step: Text::Borrowed(
            "see whether the account works; or mend its url and its credential under connections in the config",
        ),
        no_models_step: Text::Borrowed(
            "see that the account has models, and for a relay that a device is online",
        ),
        recommended: None,
        usual_ports: Cow::Borrowed(&[]),
        least_interval: Duration::from_secs(30),
    }
};
