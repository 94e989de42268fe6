//! The item in the panel. The only module that knows how one gets there.

use std::time::Duration;

use ksni::TrayMethods as _;
use ksni::menu::{CheckmarkItem, StandardItem, SubMenu};
use tokio::sync::mpsc;

use crate::action::Action;
use crate::icon::{self, Icon, Panel};
use crate::menu::{self, Does, Entry, Item};
use crate::tooltip;
use crate::view::View;

/// Longest wait until the bus has taken an update.
const LIMIT: Duration = Duration::from_secs(5);

/// All that the panel is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rendered {
    pub(crate) icon: Icon,
    pub(crate) tooltip: String,
    pub(crate) menu: Vec<Entry>,
}

impl Rendered {
    pub(crate) fn of(view: &View) -> Self {
        Self { icon: icon::icon(view), tooltip: tooltip::sentence(view), menu: menu::menu(view) }
    }
}

/// The item as it is shown now.
pub(crate) struct Tray {
    handle: ksni::Handle<Face>,
}

impl Tray {
    /// Shows the item. What is clicked comes out at the other end of `clicks`; clicks that find it full are dropped.
    pub(crate) async fn show(
        rendered: Rendered,
        panel: Panel,
        clicks: mpsc::Sender<Action>,
    ) -> Result<Self, ksni::Error> {
        // A panel that goes away between the question for it and this is waited for.
        let face = Face { rendered, panel, clicks }.assume_sni_available(true);
        Ok(Self { handle: face.spawn().await? })
    }

    /// Shows something else. False: the session bus has gone, and the item with it.
    pub(crate) async fn update(&self, rendered: Rendered) -> bool {
        let update = self.handle.update(|face| face.rendered = rendered);
        match tokio::time::timeout(LIMIT, update).await {
            Ok(updated) => updated.is_some(),
            Err(_) => !self.handle.is_closed(),
        }
    }

    /// Takes the item out of the panel.
    pub(crate) async fn close(self) {
        if tokio::time::timeout(LIMIT, self.handle.shutdown()).await.is_err() {
            tracing::debug!("the bus does not say goodbye");
        }
    }
}

struct Face {
    rendered: Rendered,
    panel: Panel,
    clicks: mpsc::Sender<Action>,
}

impl Face {
    fn click(&self, action: Action) {
        if let Err(error) = self.clicks.try_send(action) {
            tracing::warn!(%error, "too many clicks at once, this one is dropped");
        }
    }
}

impl ksni::Tray for Face {
    fn id(&self) -> String {
        "tunnel-tray".to_owned()
    }

    fn title(&self) -> String {
        "CloudToLocalLLM tunnel".to_owned()
    }

    // No `icon_name`: a host that finds no icon of a name in its theme shows none at all, and one that finds it takes
    // the theme's colour for the panel's. Pictures are shown as they are, by every host.
    fn icon_pixmap(&self) -> Vec<ksni::Icon> {
        let pictures = self.rendered.icon.pictures(self.panel).iter();
        pictures
            .map(|picture| {
                // Cannot fail: the largest is 48.
                let side = i32::try_from(picture.size).unwrap_or_default();
                ksni::Icon { width: side, height: side, data: picture.argb.to_vec() }
            })
            .collect()
    }

    fn tool_tip(&self) -> ksni::ToolTip {
        ksni::ToolTip { title: self.rendered.tooltip.clone(), ..ksni::ToolTip::default() }
    }

    fn menu(&self) -> Vec<ksni::MenuItem<Self>> {
        entries(&self.rendered.menu)
    }

    fn menu_about_to_show(&mut self) {
        self.click(Action::LookAgain);
    }

    fn activate(&mut self, _x: i32, _y: i32) {
        self.click(Action::Show);
    }

    fn secondary_activate(&mut self, _x: i32, _y: i32) {
        self.click(Action::PauseOrResume);
    }

    fn watcher_online(&self) {
        tracing::info!("the panel is back");
    }

    fn watcher_offline(&self, reason: ksni::OfflineReason) -> bool {
        tracing::info!(?reason, "the panel has gone; waiting for it");
        true
    }
}

fn entries(entries: &[Entry]) -> Vec<ksni::MenuItem<Face>> {
    entries
        .iter()
        .map(|entry| match entry {
            Entry::Separator => ksni::MenuItem::Separator,
            Entry::Item(item) => self::item(item),
        })
        .collect()
}

fn item(item: &Item) -> ksni::MenuItem<Face> {
    let label = label(&item.label);
    match &item.does {
        Does::Nothing => StandardItem { label, enabled: false, ..StandardItem::default() }.into(),
        Does::Act(action) => {
            StandardItem { label, activate: on_click(action), ..StandardItem::default() }.into()
        }
        Does::Toggle { checked, action } => {
            let checked = *checked;
            CheckmarkItem { label, checked, activate: on_click(action), ..CheckmarkItem::default() }.into()
        }
        Does::Fixed { checked } => {
            CheckmarkItem { label, checked: *checked, enabled: false, ..CheckmarkItem::default() }.into()
        }
        Does::Open(below) => SubMenu { label, submenu: entries(below), ..SubMenu::default() }.into(),
    }
}

fn on_click(action: &Action) -> Box<dyn Fn(&mut Face) + Send> {
    let action = action.clone();
    Box::new(move |face| face.click(action.clone()))
}

/// In a label one underscore stands before the letter that is the access key, and two are one.
fn label(text: &str) -> String {
    text.replace('_', "__")
}
