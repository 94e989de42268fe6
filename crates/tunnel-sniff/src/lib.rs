//! Finds out which model a request is for while its JSON body is still arriving. Pure.
//!
//! - [`ModelScan`] finds the model that a body names, for routing: quick, and content with anything.
//! - [`StrictScan`] is for a caller that may ask for some models only: it takes nothing that two readers could
//!   understand differently.
//! - [`Gather`] holds the pieces of a body in one, copying nothing as long as there is one piece only.
//! - [`asks_a_model`] knows the paths whose bodies name a model, to ask it something.
//! - [`same_model`] and [`compare_models`] know that Ollama's `llama3` is `llama3:latest`.
//!
//! ```
//! use tunnel_sniff::{ModelScan, decode};
//!
//! let body = br#"{"messages":[],"model":"llama3:8b"}"#;
//! let mut scan = ModelScan::default();
//! scan.scan(&body[..9]);
//! scan.scan(body);
//! let model = scan.span().and_then(|span| decode(&body[span]));
//! assert_eq!(model.as_deref(), Some("llama3:8b"));
//! ```

mod gather;
mod name;
mod path;
mod scan;
mod strict;

pub use gather::Gather;
pub use name::{compare_models, same_model, with_tag};
pub use path::{PATHS_THAT_ASK, asks_a_model};
pub use scan::{ModelScan, decode};
pub use strict::{Fault, StrictScan};
