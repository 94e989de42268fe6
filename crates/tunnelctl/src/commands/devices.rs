//! `tunnelctl devices`.

use serde_json::json;
use tunnel_api::{Device, Devices};
use tunnel_client::{Client, exit};

use crate::output::table::{Cell, Column, Table};
use crate::output::{Look, Output};

pub(super) async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let devices = client.devices().await?;
    if output.wants_json() {
        output.json(json!(devices))?;
    } else if devices.devices.is_empty() {
        output.talk("the relay knows no machine of this account yet; open the tunnel: tunnelctl start");
    } else {
        output.table(&table(&devices))?;
    }
    Ok(exit::OK)
}

fn table(devices: &Devices) -> Table {
    let mut table = Table::new(vec![
        Column::text("NAME"),
        Column::text("STATE"),
        Column::number("REQUESTS"),
        Column::long("MODELS"),
        Column::long("").extra(),
    ]);
    for device in &devices.devices {
        let plain: fn(&Look, &str) -> String = |_, text| text.to_owned();
        table.row(vec![
            Cell::painted(&device.name, if device.online { Look::bold } else { plain }),
            Cell::new(if device.online { "online" } else { "offline" }),
            Cell::new(if device.online { device.in_flight.to_string() } else { String::new() }),
            Cell::new(models(device)),
            Cell::new(remarks(devices, device)),
        ]);
    }
    table
}

/// Names the models, those in memory first.
fn models(device: &Device) -> String {
    let Some(models) = &device.models else {
        return if device.online { "not told".to_owned() } else { String::new() };
    };
    let (loaded, others): (Vec<_>, Vec<_>) = models.iter().partition(|model| model.loaded);
    let names: Vec<&str> = loaded.iter().chain(&others).map(|model| model.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn remarks(devices: &Devices, device: &Device) -> String {
    let this = (device.name == devices.this_device).then_some("this machine");
    let preferred = device.preferred.then_some("preferred");
    this.into_iter().chain(preferred).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use tunnel_api::DeviceModel;

    use super::*;

    #[test]
    fn devices_have_their_models_those_in_memory_first() {
        let model = |name: &str, loaded| DeviceModel { name: name.to_owned(), loaded };
        let devices = Devices {
            devices: vec![
                Device {
                    name: "desk".to_owned(),
                    online: true,
                    preferred: true,
                    models: Some(vec![model("a:1b", false), model("b:2b", true)]),
                    in_flight: 2,
                    ..Device::default()
                },
                Device { name: "lap".to_owned(), ..Device::default() },
                Device { name: "old".to_owned(), online: true, ..Device::default() },
            ],
            this_device: "desk".to_owned(),
            ..Devices::default()
        };
        let lines: Vec<String> = table(&devices)
            .text(&Look::plain(), None)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "NAME STATE REQUESTS MODELS",
                "desk online 2 b:2b, a:1b this machine, preferred",
                "lap offline",
                "old online 0 not told",
            ]
        );
    }
}
