//! A text that is drawn over and over, and the signals that end or disturb that.

mod fit;

use std::io::{self, Write as _};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

pub(super) use self::fit::cut;
use self::fit::{Size, fit};
use super::Look;

/// Time between two drawings, so that clocks on the screen go on.
const TICK: Duration = Duration::from_secs(1);

/// What a shell adds to a signal's number to make the exit code.
const KILLED_BY: u8 = 128;

/// A place on the terminal, from the line of the cursor on downwards.
///
/// It is drawn where the cursor is, not on the alternate screen: what was shown last stays when the program ends,
/// and what stood above stays too. The cursor is hidden meanwhile, and back when this is dropped.
#[derive(Debug)]
pub(crate) struct Drawing {
    look: Look,
    moves: bool,
    drawn: Option<Drawn>,
}

/// What was drawn last.
#[derive(Debug)]
struct Drawn {
    lines: usize,
    size: Option<Size>,
    text: String,
}

impl Drawing {
    /// With `moves` the cursor can be moved; without it, each change is written below the one before.
    pub(super) fn new(look: Look, moves: bool) -> Self {
        Self { look, moves, drawn: None }
    }

    /// Draws in place of what was drawn before. `news` is the text without its clocks.
    ///
    /// Lines that are longer than the terminal is wide are cut, and so is what goes beyond its height.
    pub(crate) fn draw(&mut self, text: &str, news: &str) -> io::Result<()> {
        if !self.moves {
            return self.append(text, news);
        }
        let size = Size::of_terminal();
        let lines = fit(text, size, &self.look);
        // The terminal cuts what is wider than it was counted, such as Chinese: a line that wraps would be two.
        let mut frame = "\x1b[?25l\x1b[?7l".to_owned();
        match &self.drawn {
            Some(drawn) if drawn.size == size && drawn.lines > 0 => {
                frame.push_str(&format!("\r\x1b[{}A", drawn.lines));
            }
            None => {}
            Some(drawn) if drawn.size == size => {}
            // How a terminal rearranges its lines when its size changes is not known; so all is drawn anew.
            Some(_) => frame.push_str("\x1b[H\x1b[2J"),
        }
        for line in &lines {
            // Cleared first: behind a line of full width, the cursor still stands on its last character.
            frame.push_str("\x1b[K");
            frame.push_str(line);
            frame.push_str("\r\n");
        }
        frame.push_str("\x1b[J\x1b[?7h");
        self.drawn = Some(Drawn { lines: lines.len(), size, text: String::new() });
        write(&frame)
    }

    fn append(&mut self, text: &str, news: &str) -> io::Result<()> {
        if self.drawn.as_ref().is_some_and(|drawn| drawn.text == news) {
            return Ok(());
        }
        let gap = if self.drawn.is_some() { "\n" } else { "" };
        self.drawn = Some(Drawn { lines: 0, size: None, text: news.to_owned() });
        write(&format!("{gap}{text}"))
    }

    fn show_cursor(&self) {
        if self.moves && self.drawn.is_some() {
            // A terminal that is gone has no cursor.
            drop(write("\x1b[?7h\x1b[?25h"));
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.show_cursor();
    }
}

/// When to draw anew, and when to end.
#[derive(Debug)]
pub(crate) struct Pace {
    ticks: Interval,
    resized: Stream,
    suspended: Stream,
    ends: Ends,
}

/// What [`Pace::next`] has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// It is time to draw.
    Draw,
    /// The user, or the system, wants the program to end with this exit code.
    End(u8),
}

impl Pace {
    /// From now on these signals do not end the program by themselves.
    pub(crate) fn new() -> io::Result<Self> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            ticks,
            resized: signal(SignalKind::window_change())?,
            suspended: signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?,
            ends: Ends {
                interrupted: signal(SignalKind::interrupt())?,
                terminated: signal(SignalKind::terminate())?,
                hung_up: signal(SignalKind::hangup())?,
            },
        })
    }

    /// Waits until it is time to draw or to end. Cancel safe.
    pub(crate) async fn next(&mut self, drawing: &mut Drawing) -> io::Result<Beat> {
        tokio::select! {
            _ = self.ticks.tick() => {}
            _ = self.resized.recv() => {}
            _ = self.suspended.recv() => suspend(drawing)?,
            code = self.ends.next() => return Ok(Beat::End(code)),
        }
        Ok(Beat::Draw)
    }

    /// Waits until it is time to end, and returns the exit code. Cancel safe.
    pub(crate) async fn end(&mut self) -> u8 {
        self.ends.next().await
    }
}

/// The signals that end a program.
#[derive(Debug)]
struct Ends {
    interrupted: Stream,
    terminated: Stream,
    hung_up: Stream,
}

impl Ends {
    async fn next(&mut self) -> u8 {
        let signal = tokio::select! {
            _ = self.interrupted.recv() => SignalKind::interrupt(),
            _ = self.terminated.recv() => SignalKind::terminate(),
            _ = self.hung_up.recv() => SignalKind::hangup(),
        };
        u8::try_from(signal.as_raw_value()).unwrap_or_default().saturating_add(KILLED_BY)
    }
}

/// Stops as the shell wants it, and returns when it wants to go on.
fn suspend(drawing: &mut Drawing) -> io::Result<()> {
    drawing.show_cursor();
    kill_process(getpid(), Signal::STOP)?;
    // Below what the shell has written meanwhile.
    drawing.drawn = None;
    Ok(())
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
