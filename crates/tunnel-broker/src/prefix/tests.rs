use std::task::Context;

use http_body_util::{Full, StreamBody};

use super::*;
use crate::room::Room;

const MIB: usize = 1 << 20;
const STALL: Duration = Duration::from_secs(600);

/// A body in pieces of 16 KiB, each of which comes after `pause`.
fn pieces(text: &str, pause: Duration) -> impl Body<Data = Bytes, Error = std::io::Error> + Send + 'static {
    let pieces: Vec<Bytes> = text.as_bytes().chunks(16 << 10).map(Bytes::copy_from_slice).collect();
    StreamBody::new(futures_util::stream::unfold(pieces.into_iter(), move |mut pieces| async move {
        let piece = pieces.next()?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Some((Ok(Frame::data(piece)), pieces))
    }))
}

/// A question about an image whose base64 is so long, with the model at the end.
fn question(n_bytes: usize) -> String {
    let image = "iVBORw0KGgo+".repeat(n_bytes / 12);
    format!(r#"{{"messages":[{{"role":"user","model":"no","content":"a \"{{\" {image}"}}],"model":"late"}}"#)
}

fn name(model: Option<NamedModel>) -> Option<String> {
    model.map(|model| model.name)
}

#[tokio::test]
async fn a_model_behind_an_image_is_found() {
    let (room, text) = (Room::default(), question(5 * MIB));
    let all = room.free();
    let (payload, model) = read(pieces(&text, Duration::ZERO), STALL, Some(room.share(true))).await.unwrap();
    let model = model.unwrap();
    assert_eq!((model.name.as_str(), &text[model.span]), ("late", "\"late\""));
    assert_eq!(all - room.free(), 6 * MIB, "as much as it takes, although its length was not known");
    let Payload::Whole { bytes, .. } = &payload else { panic!("it is all there") };
    assert!(bytes == text.as_bytes());
    drop(payload);
    assert_eq!(room.free(), all);
}

#[tokio::test]
async fn where_the_model_makes_no_difference_a_long_body_flows_at_once() {
    let (payload, model) = read(pieces(&question(5 * MIB), Duration::ZERO), STALL, None).await.unwrap();
    assert_eq!((payload.len(), payload.is_whole(), name(model)), (LARGEST_PREFIX, false, None));
}

#[tokio::test]
async fn what_is_known_to_name_no_model_flows_at_once() {
    let room = Room::default();
    let text = format!("--form {}", question(2 * MIB));
    let (payload, model) = read(pieces(&text, Duration::ZERO), STALL, Some(room.share(true))).await.unwrap();
    assert_eq!((payload.len(), name(model)), (16 << 10, None));
}

#[tokio::test]
async fn the_search_ends_at_its_limit() {
    let room = Room::default();
    let text = question(LARGEST_SEARCHED + MIB);
    let (payload, model) = read(pieces(&text, Duration::ZERO), STALL, Some(room.share(true))).await.unwrap();
    assert!(payload.is_too_long() && payload.len() < LARGEST_SEARCHED + MIB);
    assert_eq!(name(model), None);
}

#[tokio::test]
async fn who_sends_too_slowly_does_not_keep_the_room() {
    let (room, text) = (Room::default(), question(3 * MIB));
    let all = room.free();
    // Each piece comes in time, and all of them together do not.
    let pause = Duration::from_millis(5);
    let slow = read(pieces(&text, pause), pause * 32, Some(room.share(true))).await;
    assert!(matches!(slow, Err(Failure::UploadStalled)));
    assert_eq!(room.free(), all);
    assert!(read(pieces(&text, Duration::ZERO), pause * 32, Some(room.share(true))).await.is_ok());
}

#[tokio::test]
async fn others_have_their_turn_while_a_long_piece_is_looked_at() {
    let (room, text) = (Room::default(), question(20 * MIB));
    let mut reading = Box::pin(read(Full::new(Bytes::from(text)), STALL, Some(room.share(true))));
    let mut turns = 0;
    let (_, model) = poll_fn(|cx: &mut Context<'_>| {
        turns += 1;
        reading.as_mut().poll(cx)
    })
    .await
    .unwrap();
    assert_eq!((turns, name(model).as_deref()), (21, Some("late")));
}
