//! Reading a line from a terminal that does not show it.

use std::io::{self, BufRead as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

/// Longest line that the kernel hands over of a terminal, in bytes; it drops the rest without a word (termios(3)).
const LONGEST_LINE: usize = 4095;
/// What a shell sees of a program that was ended with Ctrl-C: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Reads one line from standard input, a terminal. Ctrl-C ends the program.
///
/// `ask` comes once nothing is shown any more: what was typed before it is thrown away. It comes again when the
/// program was stopped with Ctrl-Z and goes on, since a shell takes the terminal back as it was.
pub(super) async fn line(ask: impl Fn()) -> io::Result<String> {
    let mut continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
    let mut hidden = Hidden::new();
    ask();
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().take(LONGEST_LINE as u64 + 1).read_line(&mut line).map(|_| line)
    });
    tokio::pin!(read);
    loop {
        tokio::select! {
            line = &mut read => {
                let line = line.map_err(io::Error::other)??;
                if line.trim_end().len() >= LONGEST_LINE {
                    let problem = "it is too long for a line of a terminal; put it into a file, and use --token-file";
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
                }
                return Ok(line);
            }
            Some(()) = continued.recv() => {
                hidden.hide();
                ask();
            }
            interrupted = tokio::signal::ctrl_c() => {
                drop(hidden);
                interrupted?;
                // The reading thread waits for a line that does not come, and a return would wait for it.
                std::process::exit(INTERRUPTED)
            }
        }
    }
}

/// A terminal that does not show what is typed; shows it again when dropped.
struct Hidden {
    /// None: it could not be had; what is typed is shown, and works all the same.
    before: Option<Termios>,
}

impl Hidden {
    fn new() -> Self {
        let mut hidden = Self { before: tcgetattr(io::stdin()).ok() };
        hidden.hide();
        hidden
    }

    fn hide(&mut self) {
        let Some(before) = &self.before else { return };
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // The end of the line is shown, so that the next one starts on a new one.
        hidden.local_modes.insert(LocalModes::ECHONL);
        if tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).is_err() {
            self.before = None;
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _shown = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
