//! One icon, as a panel sees and clicks it: `org.kde.StatusNotifierItem` and `com.canonical.dbusmenu`.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, de::DeserializeOwned};
use zbus::{
    Connection,
    zvariant::{OwnedObjectPath, OwnedValue, Type, Value},
};

use crate::wait::poll_until;

const ITEM: &str = "org.kde.StatusNotifierItem";
const ITEM_PATH: &str = "/StatusNotifierItem";
const MENU: &str = "com.canonical.dbusmenu";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const LIMIT: Duration = Duration::from_secs(10);

/// An icon that has registered.
#[derive(Clone, Debug)]
pub struct TrayItem {
    bus: Connection,
    name: String,
}

/// A picture as it goes over the bus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Type)]
pub struct Picture {
    /// In pixels.
    pub width: i32,
    /// In pixels.
    pub height: i32,
    /// Four bytes a pixel: alpha, red, green, blue.
    pub argb: Vec<u8>,
}

impl Picture {
    /// Which pixels are painted at all: what is left of a picture when colours cannot be told apart.
    pub fn shape(&self) -> Vec<bool> {
        self.argb.chunks(4).map(|pixel| pixel.first().is_some_and(|alpha| *alpha > 127)).collect()
    }
}

/// What is shown when the pointer rests on the icon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tooltip {
    /// In bold, on most panels.
    pub title: String,
    /// Below it; may be empty.
    pub text: String,
}

/// One entry of the menu, and those below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MenuEntry {
    /// By which it is clicked.
    pub id: i32,
    /// Its text; that of a separator is empty.
    pub label: String,
    /// Whether it can be clicked.
    pub enabled: bool,
    /// Whether it is a line between others.
    pub separator: bool,
    /// Whether it is checked, for those that can be.
    pub checked: Option<bool>,
    /// What it opens.
    pub children: Vec<Self>,
}

impl MenuEntry {
    /// Looks for the entry whose text begins so, here and below.
    pub fn find(&self, label: &str) -> Option<&Self> {
        if !self.separator && self.label.starts_with(label) {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(label))
    }

    /// The menu as indented lines, for messages.
    pub fn lines(&self, indent: usize) -> String {
        let mark = match (self.separator, self.checked) {
            (true, _) => "--",
            (_, Some(true)) => "[x] ",
            (_, Some(false)) => "[ ] ",
            (_, None) => "",
        };
        let off = if self.enabled { "" } else { " (off)" };
        let own = format!("{}{mark}{}{off}\n", "  ".repeat(indent), self.label);
        std::iter::once(own).chain(self.children.iter().map(|child| child.lines(indent + 1))).collect()
    }

    fn read(id: i32, properties: &HashMap<String, OwnedValue>, children: &[&Value<'_>]) -> Result<Self> {
        let text = |name: &str| -> Option<&str> {
            match properties.get(name).map(|value| &**value) {
                Some(Value::Str(text)) => Some(text.as_str()),
                _ => None,
            }
        };
        let enabled = !matches!(properties.get("enabled").map(|value| &**value), Some(Value::Bool(false)));
        let checked = text("toggle-type")
            .filter(|kind| !kind.is_empty())
            .map(|_| matches!(properties.get("toggle-state").map(|value| &**value), Some(Value::I32(1))));
        Ok(Self {
            id,
            // An underscore marks the letter that chooses the entry; two stand for one.
            label: text("label").unwrap_or_default().replace("__", "_"),
            enabled,
            separator: text("type") == Some("separator"),
            checked,
            children: children.iter().map(|child| Self::from_value(child)).collect::<Result<_>>()?,
        })
    }

    fn from_value(value: &Value<'_>) -> Result<Self> {
        let value = match value {
            Value::Value(inner) => inner,
            value => value,
        };
        let Value::Structure(structure) = value else { anyhow::bail!("no menu entry: {value:?}") };
        let [Value::I32(id), Value::Dict(properties), Value::Array(children)] = structure.fields() else {
            anyhow::bail!("no menu entry: {structure:?}")
        };
        let properties = HashMap::<String, OwnedValue>::try_from(properties.try_clone()?)?;
        let children: Vec<&Value<'_>> = children.iter().collect();
        Self::read(*id, &properties, &children)
    }
}

/// What `GetLayout` answers: the menu's revision, and its root.
type Layout = (u32, (i32, HashMap<String, OwnedValue>, Vec<OwnedValue>));

impl TrayItem {
    pub(super) fn new(bus: Connection, name: String) -> Self {
        Self { bus, name }
    }

    /// The name of its connection.
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn call<A, R>(&self, path: &str, interface: &str, method: &str, arguments: &A) -> Result<R>
    where
        A: serde::Serialize + zbus::zvariant::DynamicType,
        R: DeserializeOwned + Type,
    {
        let called = self.bus.call_method(Some(self.name.as_str()), path, Some(interface), method, arguments);
        let reply = called.await.with_context(|| format!("{method} of {}", self.name))?;
        Ok(reply.body().deserialize()?)
    }

    async fn property(&self, name: &str) -> Result<OwnedValue> {
        self.call(ITEM_PATH, PROPERTIES, "Get", &(ITEM, name)).await
    }

    /// What is shown when the pointer rests on it.
    pub async fn tooltip(&self) -> Result<Tooltip> {
        let value = self.property("ToolTip").await?;
        let Value::Structure(structure) = &*value else { anyhow::bail!("no tooltip: {value:?}") };
        let [_, _, Value::Str(title), Value::Str(text)] = structure.fields() else {
            anyhow::bail!("no tooltip: {structure:?}")
        };
        Ok(Tooltip { title: title.to_string(), text: text.to_string() })
    }

    /// Waits until what is shown when the pointer rests on it is as wanted.
    pub async fn wait_for_tooltip(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let waited = poll_until(what, LIMIT, async || {
            let tooltip = self.tooltip().await.ok()?;
            last = format!("{} {}", tooltip.title, tooltip.text).trim().to_owned();
            wanted(&last).then(|| last.clone())
        });
        waited.await.with_context(|| format!("the tooltip is {last:?}"))
    }

    /// Its pictures, one a size.
    pub async fn pictures(&self) -> Result<Vec<Picture>> {
        let value = self.property("IconPixmap").await?;
        let Value::Array(pictures) = &*value else { anyhow::bail!("no pictures: {value:?}") };
        pictures
            .iter()
            .map(|picture| {
                let Value::Structure(structure) = picture else { anyhow::bail!("no picture: {picture:?}") };
                let [Value::I32(width), Value::I32(height), Value::Array(argb)] = structure.fields() else {
                    anyhow::bail!("no picture")
                };
                let argb = Vec::<u8>::try_from(argb.try_clone()?)?;
                Ok(Picture { width: *width, height: *height, argb })
            })
            .collect()
    }

    async fn menu_path(&self) -> Result<String> {
        let value = self.property("Menu").await?;
        Ok(OwnedObjectPath::try_from(value)?.to_string())
    }

    /// The whole menu.
    pub async fn menu(&self) -> Result<MenuEntry> {
        let none: [&str; 0] = [];
        let path = self.menu_path().await?;
        let (_, (id, properties, children)): Layout =
            self.call(&path, MENU, "GetLayout", &(0_i32, -1_i32, none.as_slice())).await?;
        let children: Vec<&Value<'_>> = children.iter().map(|child| &**child).collect();
        MenuEntry::read(id, &properties, &children)
    }

    /// Waits until the menu is as wanted.
    pub async fn wait_for_menu(&self, what: &str, wanted: impl Fn(&MenuEntry) -> bool) -> Result<MenuEntry> {
        let mut last = String::new();
        let waited = poll_until(what, LIMIT, async || {
            let menu = self.menu().await.ok()?;
            last = menu.lines(0);
            wanted(&menu).then_some(menu)
        });
        waited.await.with_context(|| format!("the menu is\n{last}"))
    }

    /// Clicks the entry whose text begins so, once it is there and can be clicked.
    pub async fn click(&self, label: &str) -> Result<()> {
        let menu = self
            .wait_for_menu(&format!("the entry {label:?}"), |menu| {
                menu.find(label).is_some_and(|entry| entry.enabled)
            })
            .await?;
        let id = menu.find(label).context("it was there")?.id;
        let path = self.menu_path().await?;
        self.call(&path, MENU, "Event", &(id, "clicked", Value::from(0_i32), 0_u32)).await
    }

    /// Clicks the icon itself.
    pub async fn activate(&self) -> Result<()> {
        self.call(ITEM_PATH, ITEM, "Activate", &(0_i32, 0_i32)).await
    }

    /// Clicks the icon itself with the middle button.
    pub async fn activate_secondary(&self) -> Result<()> {
        self.call(ITEM_PATH, ITEM, "SecondaryActivate", &(0_i32, 0_i32)).await
    }
}
