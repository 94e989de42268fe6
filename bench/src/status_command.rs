//! How long a person waits for `tunnelctl status`, from its start to its end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::process::Role;
use crate::targets::{Workshop, free_port};

/// Longest wait for the daemon's control socket.
const START: Duration = Duration::from_secs(10);
/// The bar, in milliseconds.
const BAR_MS: f64 = 20.0;

/// What was measured, in milliseconds.
#[derive(Debug)]
pub(crate) struct StatusCommand {
    sorted_ms: Vec<f64>,
}

impl StatusCommand {
    /// Starts a daemon with one connection and asks it so many times, by its control socket.
    pub(crate) fn measure(workshop: &Workshop, runs: u32) -> anyhow::Result<Self> {
        let folder = workshop.scratch.join("status");
        fs::create_dir_all(&folder)?;
        let config = json!({
            "enableLocalOllama": false,
            "enableCloudProxy": false,
            "apiServerPort": free_port()?,
            "gatewayPort": free_port()?,
            "connections": [{ "id": "bench", "type": "openai", "url": format!("http://{}", workshop.backend) }],
        });
        let file = folder.join("tunneld.json");
        fs::write(&file, config.to_string())?;
        let (runtime, state) = (folder.display().to_string(), folder.join("state").display().to_string());
        let runtime = format!("XDG_RUNTIME_DIR={runtime}");
        let (daemon, file) = (workshop.ours("tunneld")?.display().to_string(), file.display().to_string());
        let _daemon = Role::exec(
            Path::new("env"),
            &[&runtime, &daemon, "--config", &file, "--state-dir", &state],
            None,
            &folder.join("tunneld.log"),
        )?;
        let tunnelctl = workshop.ours("tunnelctl")?;
        let url = format!("unix://{}", folder.join("tunneld/api.sock").display());
        let ask = || Command::new(&tunnelctl).args(["--url", &url, "status"]).stderr(Stdio::null()).output();
        let begin = Instant::now();
        while !ask().with_context(|| format!("running {}", tunnelctl.display()))?.status.success() {
            ensure!(begin.elapsed() < START, "tunneld does not answer at {url}; see {}", folder.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut sorted_ms = Vec::new();
        for _ in 0..runs {
            let begin = Instant::now();
            ensure!(ask()?.status.success(), "tunnelctl status failed");
            sorted_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        sorted_ms.sort_by(f64::total_cmp);
        Ok(Self { sorted_ms })
    }

    fn percentile(&self, percent: usize) -> f64 {
        let last = self.sorted_ms.len().saturating_sub(1);
        self.sorted_ms.get(last * percent / 100).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn markdown(&self) -> String {
        let (median, late) = (self.percentile(50), self.percentile(99));
        let runs = self.sorted_ms.len();
        format!(
            "\n`tunnelctl status`, process and all: median {median:.1} ms, 99th percentile {late:.1} ms of {runs} \
             (bar: {BAR_MS} ms)\n"
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "median_ms": self.percentile(50), "p99_ms": self.percentile(99), "bar_ms": BAR_MS, "runs": self.sorted_ms.len() })
    }
}
