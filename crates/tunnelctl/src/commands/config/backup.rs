//! `tunnelctl config backup` and `restore`.

use tunnel_client::{Client, Error, exit};

use super::answer;
use crate::output::Output;
use crate::output::table::{Cell, Column, Table};
use crate::refusal::Refusal;

pub(super) async fn make(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let answer = client.back_up_config().await?;
    if output.wants_json() {
        output.json(serde_json::to_value(&answer)?)?;
        return Ok(exit::OK);
    }
    if output.is_quiet() {
        // The name is the answer; the rest is talk.
        output.answer(&format!("{}\n", answer.name))?;
        return Ok(exit::OK);
    }
    output.done(&format!("kept as {}", answer.name))?;
    output.talk(&format!("put it back with: tunnelctl config restore {}", answer.name));
    Ok(exit::OK)
}

pub(super) async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let answer = client.config_backups().await?;
    if output.wants_json() {
        output.json(serde_json::to_value(&answer)?)?;
        return Ok(exit::OK);
    }
    if answer.backups.is_empty() {
        output
            .done("there are no copies; one is made before each change, and by: tunnelctl config backup")?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(vec![Column::text("NAME"), Column::text("MADE"), Column::number("BYTES")]);
    for copy in &answer.backups {
        let made = copy.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        table.row(vec![Cell::new(&copy.name), Cell::new(made), Cell::new(copy.size_bytes.to_string())]);
    }
    output.table(&table)?;
    output.talk("put one back with: tunnelctl config restore NAME");
    Ok(exit::OK)
}

pub(super) async fn restore(client: &Client, name: &str, force: bool, output: &Output) -> anyhow::Result<u8> {
    let before = client.config().await?;
    match client.restore_config(name, force).await {
        Ok(done) => answer::changed(&before, &done, output),
        Err(Error::Refused(body)) if body.code == "not_found" => Err(Refusal::new(
            exit::NOT_FOUND,
            format!("there is no copy {name}; those that there are: tunnelctl config restore"),
        )
        .into()),
        Err(error) => {
            let faulty = matches!(&error, Error::Refused(body) if body.code == "config_file_invalid");
            let code = answer::refused(error, output)?;
            if faulty && !force {
                output.talk(&format!("or replace it all the same: tunnelctl config restore {name} --force"));
            }
            Ok(code)
        }
    }
}
