//! The shipped example is the default, so that it can be copied and changed.

use tunnel_api::{Config, config};

#[test]
fn example_config_equals_the_defaults() {
    let example = include_str!("../../../dist/tunnel_config.example.json");
    let keys = config::parse(example).expect("the example is JSON");
    assert_eq!(Config::check(&keys), Ok(Config::default()));
    assert_eq!(
        example,
        Config::default().to_json(),
        "write it anew with: cargo run -p tunnel-api --example default_config > dist/tunnel_config.example.json"
    );
}
