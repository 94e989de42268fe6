//! `tunnelctl` in a real terminal: what is on the screen while things happen, and how the terminal is left.

use anyhow::{Context as _, Result, ensure};
use e2e::{Daemon, Lab, Size, Terminal, WorldOptions, binaries, measured, scenario, skipped};
use rustix::process::{Pid, Signal, kill_process};

const USUAL: Size = Size { columns: 100, rows: 30 };
const SMALL: Size = Size { columns: 60, rows: 15 };

/// A terminal whose `tunnelctl` finds this daemon, or a word on why there is none.
async fn terminal(
    lab: &mut Lab,
    daemon: &Daemon,
    size: Size,
    environment: &[(&str, &str)],
) -> Result<Option<Terminal>> {
    let home = daemon.dir().display().to_string();
    let run = daemon.dir().join("run").display().to_string();
    let programs = binaries::tunnelctl()?;
    let programs = programs.parent().context("a program lies in a folder")?.display();
    let path = format!("{programs}:{}", std::env::var("PATH")?);
    let usual = [("HOME", home.as_str()), ("XDG_RUNTIME_DIR", &run), ("PATH", &path)];
    let environment: Vec<(&str, &str)> = usual.iter().chain(environment).copied().collect();
    let opened = Terminal::open(&lab.folder("terminal", "tmux.log")?, size, &environment).await?;
    if opened.is_none() {
        skipped("a real terminal", "tmux is not there: cargo xtask setup")?;
    }
    Ok(opened)
}

/// Every line fits, so that none is broken in the middle by the terminal.
fn check_width(screen: &str, size: Size) -> Result<()> {
    for line in screen.lines() {
        ensure!(line.chars().count() <= usize::from(size.columns), "too wide: {line}");
    }
    Ok(())
}

#[test]
fn the_status_is_followed_through_cut_resume_stop_and_the_daemon_s_end() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world_with(WorldOptions::linked()).await?;
        let Some(terminal) = terminal(lab, &world.daemon, USUAL, &[]).await? else { return Ok(()) };
        terminal.run("tunnelctl status -w")?;
        let up = terminal.wait_for("the tunnel is up", |screen| screen.contains("Tunnel connected")).await?;
        ensure!(up.contains('✓') && up.contains("ollama"), "{up}");
        ensure!(!terminal.cursor_is_shown()?, "the cursor dances over the screen");

        let link = world.link()?;
        link.refuse().await?;
        link.cut();
        terminal
            .wait_for("the cut is shown", |screen| {
                screen.contains("Tunnel connecting") || screen.contains("waiting to dial again")
            })
            .await?;
        link.accept()?;
        let back = terminal
            .wait_for("the resumed tunnel", |screen| {
                screen.contains("Tunnel connected") && screen.contains("resumed without loss")
            })
            .await?;
        check_width(&back, USUAL)?;

        world.daemon.control().post("/api/tunnel/stop").send().await?;
        terminal.wait_for("the stop", |screen| screen.contains("Tunnel stopped")).await?;
        world.daemon.control().post("/api/tunnel/start").send().await?;
        terminal.wait_for("the start", |screen| screen.contains("Tunnel connected")).await?;

        world.daemon.kill()?;
        let gone = terminal.wait_for("the daemon's end", |screen| screen.contains("does not answer")).await?;
        ensure!(!gone.contains("Tunnel connected"), "an old status beside the news:\n{gone}");
        world.daemon.restart().await?;
        terminal.wait_for("the daemon is back", |screen| screen.contains("Tunnel connected")).await?;

        terminal.press("C-c")?;
        let last = terminal.wait_for_prompt().await?;
        ensure!(last.contains("Tunnel connected"), "the last screen is gone:\n{last}");
        terminal.check_sane().await?;
        measured(
            "status -w in tmux",
            "connect, cut, resume, stop, start, daemon killed and back: each on the screen",
        );
        Ok(())
    })
}

#[test]
fn a_small_terminal_is_filled_and_not_overrun() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(terminal) = terminal(lab, &world.daemon, SMALL, &[]).await? else { return Ok(()) };
        terminal.run("tunnelctl status -w")?;
        let small = terminal.wait_for("the status", |screen| screen.contains("Tunnel connected")).await?;
        check_width(&small, SMALL)?;
        // Fewer lines than there is to show: the headline stays, and it says that there is more.
        terminal.resize(Size { rows: 6, ..SMALL })?;
        terminal
            .wait_for("what fits", |screen| {
                screen.contains("Tunnel connected")
                    && !screen.contains("Configuration")
                    && screen.contains("more")
            })
            .await?;
        terminal.resize(USUAL)?;
        terminal
            .wait_for("the status in the larger window", |screen| screen.contains("Configuration"))
            .await?;
        terminal.press("C-c")?;
        terminal.wait_for_prompt().await?;
        // Tables fit as well.
        terminal.resize(SMALL)?;
        terminal.run("clear; tunnelctl connections list; tunnelctl models list")?;
        let tables = terminal.wait_for_prompt().await?;
        ensure!(tables.contains("ollama") && tables.contains(e2e::MODEL), "{tables}");
        terminal.check_sane().await
    })
}

#[test]
fn colours_and_symbols_are_left_out_where_they_are_not_wanted() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for (what, environment, colours, symbols) in [
            ("a usual terminal", &[][..], true, true),
            ("NO_COLOR", &[("NO_COLOR", "1")][..], false, true),
            ("TERM=dumb", &[("TERM", "dumb"), ("LANG", "C")][..], false, false),
            ("a locale without UTF-8", &[("LANG", "C")][..], true, false),
        ] {
            let Some(terminal) = terminal(lab, &world.daemon, USUAL, environment).await? else {
                return Ok(());
            };
            terminal.run("tunnelctl status")?;
            let screen = terminal.wait_for_prompt().await?;
            let shown = terminal.coloured_screen()?;
            ensure!(shown.contains("\x1b[32m") == colours, "{what}: {shown:?}");
            ensure!(screen.contains('✓') == symbols, "{what}: {screen}");
            ensure!(screen.contains("OK") != symbols, "{what}: {screen}");
            terminal.check_sane().await?;
        }
        Ok(())
    })
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let Some(terminal) = terminal(lab, &world.daemon, USUAL, &[]).await? else { return Ok(()) };
        let note = lab.dir().join("pid");
        for line in ["tunnelctl status -w", "tunnelctl requests list -w"] {
            for signal in [Signal::TERM, Signal::INT] {
                terminal.run(&format!("clear; sh -c 'echo $$ > {}; exec {line}'", note.display()))?;
                terminal.wait_for("its screen", |_| !terminal.cursor_is_shown().unwrap_or(true)).await?;
                // From beside it, as a session that ends does.
                let pid = std::fs::read_to_string(&note)?.trim().parse()?;
                kill_process(Pid::from_raw(pid).context("a program has an id")?, signal)?;
                terminal.wait_for("the cursor", |_| terminal.cursor_is_shown().unwrap_or(false)).await?;
                terminal.wait_for_prompt().await?;
                terminal.check_sane().await.with_context(|| format!("{line} after {signal:?}"))?;
            }
        }
        Ok(())
    })
}
