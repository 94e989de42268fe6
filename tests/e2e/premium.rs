//! The recipe of a relay for each premium tenant keeps what it promises, in both of its forms.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{binaries, skipped};
use serde_json::Value;

fn recipe() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dist/relay.premium")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn each_tenants_relay_of_the_compose_file_is_alone_on_its_network() -> Result<()> {
    let file = recipe().join("compose.yaml");
    let read = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let known = Command::new("python3").args(["-c", "import yaml"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        return skipped("the compose file", "there is no python3 with yaml to read it");
    }
    let output = Command::new("python3").args(["-c", read]).arg(&file).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compose: Value = serde_json::from_slice(&output.stdout)?;
    let services = compose["services"].as_object().context("no services")?;
    let relays: Vec<_> = services.iter().filter(|(name, _)| *name != "proxy").collect();
    ensure!(relays.len() == 2, "{relays:?}");
    let (mut networks, mut volumes) = (BTreeSet::new(), BTreeSet::new());
    for (name, relay) in &relays {
        let [network] = texts(&relay["networks"])[..] else { panic!("{name} is not on one network") };
        ensure!(compose["networks"][network]["internal"] == true, "{network} leads out");
        ensure!(networks.insert(network), "{network} is shared");
        let data: Vec<_> =
            texts(&relay["volumes"]).into_iter().filter(|volume| volume.contains(":/data")).collect();
        ensure!(data.len() == 1 && volumes.insert(data[0]), "{name} shares its data: {data:?}");
        ensure!(relay["ports"].is_null(), "{name} has a port");
        ensure!(
            relay["read_only"] == true && texts(&relay["cap_drop"]) == ["ALL"] && relay["cap_add"].is_null()
        );
        ensure!(texts(&relay["security_opt"]).contains(&"no-new-privileges:true"), "{name}");
        ensure!(relay["user"].as_str().is_some_and(|user| !user.starts_with('0')), "{name} runs as root");
        ensure!(!relay["mem_limit"].is_null() && !relay["pids_limit"].is_null(), "{name} has no bounds");
        let settings = format!("./{name}.toml:/etc/tunnel-relay/relay.toml:ro");
        ensure!(texts(&relay["volumes"]).contains(&settings.as_str()), "{name} has no settings of its own");
        let trusted = fs::read_to_string(recipe().join(format!("{name}.toml")))?;
        let subnet =
            compose["networks"][network]["ipam"]["config"][0]["subnet"].as_str().context("no subnet")?;
        ensure!(
            trusted.contains(&format!("trusted_proxies = [\"{subnet}\"]")),
            "{name} trusts another network"
        );
    }
    let isolated: BTreeSet<&str> = compose["networks"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, network)| network["internal"] == true)
        .map(|(name, _)| name.as_str())
        .collect();
    ensure!(isolated == networks, "{isolated:?} lead nowhere, the relays are on {networks:?}");
    let command = compose["x-relay"]["command"].clone();
    ensure!(relays.iter().all(|(_, relay)| relay["command"] == command), "the relays are not started alike");
    would_serve(&texts(&command))?;
    let proxy = &services["proxy"];
    ensure!(texts(&proxy["ports"]) == ["443:443"]);
    ensure!(
        networks.iter().all(|network| texts(&proxy["networks"]).contains(network)),
        "the proxy misses a relay"
    );
    ensure!(proxy["read_only"] == true && texts(&proxy["cap_drop"]) == ["ALL"]);
    let sites = fs::read_to_string(recipe().join("tenants.conf"))?;
    for (name, _) in &relays {
        ensure!(
            sites.contains(&format!("proxy_pass http://{name}:8443;")),
            "the proxy does not lead to {name}"
        );
    }
    ensure!(sites.matches('{').count() == sites.matches('}').count());
    Ok(())
}

/// Starts the real relay with these arguments, but no settings: it is to stumble over their being away, and nothing before.
fn would_serve(arguments: &[&str]) -> Result<()> {
    let config = "/etc/tunnel-relay/relay.toml";
    ensure!(arguments.ends_with(&["--config", config]), "{arguments:?}");
    if Path::new(config).exists() {
        return skipped(
            "the relays' command",
            "this machine has settings of its own at the containers' path",
        );
    }
    let output = Command::new(binaries::tunnel_relay()?).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(&format!("could not read {config}")), "{said}");
    Ok(())
}

#[test]
fn the_settings_of_each_tenants_relay_are_good() -> Result<()> {
    for tenant in ["acme", "globex"] {
        let file = recipe().join(format!("{tenant}.toml"));
        let output = Command::new(binaries::tunnel_relay()?)
            .args(["config", "check", "--print"])
            .arg(&file)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{tenant}: {said}");
        // What the file says is what is in force, under the names that it says it by.
        let (given, printed) = (fs::read_to_string(&file)?, String::from_utf8(output.stdout)?);
        for line in given.lines().filter(|line| line.contains(" = ")) {
            ensure!(
                printed.lines().any(|shown| shown == line),
                "{tenant}: {line} is not in force:\n{printed}"
            );
        }
    }
    Ok(())
}

/// Values of a key of a unit, as `[Section]` and `Key=Value` say them.
fn values(unit: &str, section: &str, key: &str) -> Vec<String> {
    let mut here = "";
    let mut found = Vec::new();
    for line in unit.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            here = name;
        } else if let Some((name, value)) = line.split_once('=') {
            if here == section && name == key {
                found.push(value.to_owned());
            }
        } else {
            panic!("{line} is no line of a unit");
        }
    }
    found
}

#[test]
fn each_tenants_relay_of_the_quadlet_is_alone_on_its_network() -> Result<()> {
    let unit =
        |name: &str| fs::read_to_string(recipe().join("quadlet").join(name)).with_context(|| name.to_owned());
    let proxy = unit("relay-proxy.container")?;
    let compose = fs::read_to_string(recipe().join("compose.yaml"))?;
    ensure!(values(&proxy, "Container", "PublishPort") == ["443:443"]);
    let mut networks = BTreeSet::new();
    for tenant in ["acme", "globex"] {
        let relay = unit(&format!("relay-{tenant}.container"))?;
        let of = |key: &str| values(&relay, "Container", key);
        ensure!(of("Network") == [format!("relay-{tenant}.network")], "{tenant}: {:?}", of("Network"));
        ensure!(networks.insert(of("Network")));
        ensure!(of("PublishPort").is_empty() && of("AddCapability").is_empty());
        ensure!(
            of("ReadOnly") == ["true"]
                && of("DropCapability") == ["all"]
                && of("NoNewPrivileges") == ["true"]
        );
        // The same command in both forms; only the compose file's has been tried.
        let [command] = &of("Exec")[..] else { bail!("{tenant} has no command, or several") };
        let listed: Vec<String> = command.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        let joined = compose.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(joined.contains(&listed.join(", ")), "{tenant} starts with other arguments: {command}");
        ensure!(of("User") == ["65532"] && of("ContainerName") == [tenant]);
        ensure!(of("Volume").contains(&format!("relay-{tenant}-data:/data")));
        let network = unit(&format!("relay-{tenant}.network"))?;
        ensure!(values(&network, "Network", "Internal") == ["true"]);
        let settings = fs::read_to_string(recipe().join(format!("{tenant}.toml")))?;
        let subnet = values(&network, "Network", "Subnet");
        ensure!(subnet.len() == 1 && settings.contains(&subnet[0]), "{tenant} trusts another network");
        ensure!(
            values(&proxy, "Container", "Network").contains(&of("Network")[0]),
            "the proxy misses {tenant}"
        );
    }
    Ok(())
}
