//! Renders the icons of `dist/icons` to the pictures that panels take: ARGB32, not premultiplied, network byte order.
//!
//! In the drawings `currentColor` stands for the ink, which has to stand out from the panel. A panel's colour cannot be
//! asked for, so a halo of the other ink lies below: on a panel of the ink's own colour it is the halo that shows.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use resvg::tiny_skia::{Pixmap, PixmapPaint, Transform};
use resvg::usvg::{Options, Tree};

/// In the order of `Icon::index`.
const STATES: [&str; 6] = ["connected", "partly-connected", "connecting", "disconnected", "off", "error"];
/// Ink for a dark panel, and for a light one, in the order of `Panel::index`.
const INKS: [&str; 2] = ["#ffffff", "#2e3436"];
/// Of panels with usual, larger, and doubled pixels. Hosts scale the nearest one.
const SIZES: [u32; 3] = [22, 32, 48];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let icons = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/icons");
    let out = env::var("OUT_DIR")?;
    println!("cargo::rerun-if-changed={}", icons.display());
    println!("cargo::rerun-if-changed=build.rs");

    let mut table = String::from("[\n");
    for state in STATES {
        let drawing = fs::read_to_string(icons.join(format!("tunnel-tray-{state}.svg")))?;
        table.push_str("[\n");
        let drawn =
            INKS.map(|ink| Tree::from_str(&drawing.replace("currentColor", ink), &Options::default()));
        let [white, black] = drawn;
        let (white, black) = (white?, black?);
        for (panel, (ink, halo)) in [(&white, &black), (&black, &white)].into_iter().enumerate() {
            table.push_str("[\n");
            for size in SIZES {
                let file = Path::new(&out).join(format!("{state}-{panel}-{size}.argb"));
                fs::write(&file, render(ink, halo, size)?)?;
                writeln!(table, "Picture {{ size: {size}, argb: include_bytes!({file:?}) }},")?;
            }
            table.push_str("],\n");
        }
        table.push_str("],\n");
    }
    table.push(']');
    fs::write(Path::new(&out).join("pictures.rs"), table)?;
    Ok(())
}

/// How far the halo reaches beyond the ink, of a picture's width: one pixel of the smallest.
const HALO: f32 = 1.0 / 22.0;
/// How strong it is: enough to be seen, too little to look like part of the shape where it is not needed.
const HALO_OPACITY: f32 = 0.6;

fn render(ink: &Tree, halo: &Tree, size: u32) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let picture = || Pixmap::new(size, size).ok_or("no picture of this size");
    let scale = size as f32 / ink.size().width();
    let reach = size as f32 * HALO;
    let mut below = picture()?;
    for (x, y) in
        [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (-0.7, -0.7), (0.7, -0.7), (-0.7, 0.7), (0.7, 0.7)]
    {
        let moved = Transform::from_scale(scale, scale).post_translate(x * reach, y * reach);
        resvg::render(halo, moved, &mut below.as_mut());
    }
    let mut whole = picture()?;
    let faint = PixmapPaint { opacity: HALO_OPACITY, ..PixmapPaint::default() };
    whole.draw_pixmap(0, 0, below.as_ref(), &faint, Transform::identity(), None);
    resvg::render(ink, Transform::from_scale(scale, scale), &mut whole.as_mut());
    let mut pixels = whole.take_demultiplied();
    for pixel in pixels.chunks_exact_mut(4) {
        // RGBA to ARGB.
        pixel.rotate_right(1);
    }
    Ok(pixels)
}
