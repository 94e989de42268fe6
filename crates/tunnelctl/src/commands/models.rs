//! `tunnelctl models list`.

use serde_json::json;
use tunnel_api::Models;
use tunnel_client::{Client, exit};

use crate::output::table::{Cell, Column, Table};
use crate::output::words::bytes;
use crate::output::{Look, Output};

pub(super) async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let models = client.models().await?;
    if output.wants_json() {
        output.json(json!(models))?;
    } else if models.models.is_empty() {
        output.talk(
            "no connection lists a model; get one, such as: ollama pull llama3.2:3b; how the connections stand: \
             tunnelctl connections list",
        );
    } else {
        output.table(&table(&models))?;
    }
    Ok(exit::OK)
}

fn table(models: &Models) -> Table {
    let mut table = Table::new(vec![
        Column::long("NAME"),
        Column::long("CONNECTIONS").extra(),
        Column::text("LOADED"),
        Column::number("SIZE"),
    ]);
    for model in &models.models {
        table.row(vec![
            Cell::painted(&model.name, if model.loaded { Look::bold } else { |_, text| text.to_owned() }),
            Cell::new(model.connections.join(", ")),
            Cell::new(if model.loaded { "yes" } else { "" }),
            Cell::new(model.size_bytes.map_or_else(String::new, bytes)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use tunnel_api::Model;

    use super::*;

    #[test]
    fn models_have_their_connections_and_size() {
        let model = |name: &str, loaded, size_bytes| Model {
            name: name.to_owned(),
            connections: vec!["lab".to_owned(), "ollama".to_owned()],
            loaded,
            size_bytes,
        };
        let models = Models {
            models: vec![model("llama3.2:3b", true, Some(2_019_393_189)), model("x", false, None)],
            ..Models::default()
        };
        assert_eq!(
            table(&models).text(&Look::plain(), None),
            "NAME         CONNECTIONS  LOADED    SIZE\nllama3.2:3b  lab, ollama  yes     2.0 GB\nx            lab, ollama\n"
        );
    }
}
