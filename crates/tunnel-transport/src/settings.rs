//! The numbers of HTTP/2 on a tunnel.

use std::time::Duration;

/// The desktop serves so many requests at once; the relay admits before it opens a stream.
pub(crate) const MAX_STREAMS: u32 = 10_000;
/// What one stream may have on its way: fills 50 ms × 20 MB/s, and bounds what a slow reader costs.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
/// What all streams may have on their way.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The largest DATA frame: bigger ones cost less each, smaller ones let a token pass a download sooner
/// (16 KiB take 1.3 ms at 12.5 MB/s).
pub(crate) const FRAME: u32 = 16 * 1024;
/// Header lists: hyper's 16 KiB is too small for long cookies and model lists in headers.
pub(crate) const HEADER_LIST: u32 = 64 * 1024;
/// What one stream may buffer before HTTP/2 has sent it.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
/// Streams that were reset before they were accepted, or whose frames still arrive: as many callers may hang up
/// at once. h2 would end the connection at 20.
pub(crate) const RESETS: usize = MAX_STREAMS as usize;
/// How long frames of a stream that was reset here are expected.
pub(crate) const RESET_MEMORY: Duration = Duration::from_secs(30);
/// What h2 lets unread small DATA frames cost before it ends the connection. Tokens are small, and a caller
/// that reads nothing must not end the tunnel of all others: 1 MiB of one-byte frames in each of 100 streams.
pub(crate) const SMALL_FRAMES: usize = 1024 * 1024 * 1024;

/// The default of [`crate::AcceptorConfig::grace`].
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// The longest that a desktop takes from a relay: what the relay's settings allow. More is a typing error there, and a
/// time without end is none that a clock can add.
pub(crate) const GRACE_MAX: Duration = Duration::from_secs(3_600);
/// The default of [`crate::AcceptorConfig::window`], and what a desktop takes from a relay at the most and the least.
pub(crate) const WINDOW: u64 = 4 * 1024 * 1024;
pub(crate) const WINDOW_BOUNDS: std::ops::RangeInclusive<u64> = 64 * 1024..=64 * 1024 * 1024;

/// Unsent bytes that the kernel takes for a tunnel's socket.
pub(crate) const NOTSENT_LOWAT: u32 = 128 * 1024;
