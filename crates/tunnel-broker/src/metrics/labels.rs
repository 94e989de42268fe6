use std::collections::HashMap;
use std::sync::Arc;

/// The values that one label of our metrics has had: the first so many, then `other`.
///
/// They come from the configuration and from the catalogue, never from a caller. They are bounded all the same,
/// since a server may list whatever it likes.
#[derive(Debug)]
pub(super) struct Labels {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, usize>,
    /// The place that was asked for last: most likely it is the next one, too.
    last: usize,
    most: usize,
}

/// The place of the value for requests that have none.
pub(super) const NONE: usize = 0;
/// The place of the value that stands for all that came too late.
const OTHER: usize = 1;

impl Labels {
    /// Keeps up to `most` values beside `none` and `other`.
    pub(super) fn new(most: usize) -> Self {
        let names: Vec<Arc<str>> = vec![Arc::from("none"), Arc::from("other")];
        let by_name = names.iter().cloned().zip([NONE, OTHER]).collect();
        Self { most: most + names.len(), names, by_name, last: NONE }
    }

    /// Returns the place of a value.
    pub(super) fn place(&mut self, name: Option<&Arc<str>>) -> usize {
        let Some(name) = name else { return NONE };
        if self.names[self.last] == *name {
            return self.last;
        }
        let place = match self.by_name.get(name) {
            Some(place) => *place,
            None if self.names.len() >= self.most => return OTHER,
            None => {
                self.by_name.insert(Arc::clone(name), self.names.len());
                self.names.push(Arc::clone(name));
                self.names.len() - 1
            }
        };
        self.last = place;
        place
    }

    pub(super) fn name(&self, place: usize) -> &Arc<str> {
        &self.names[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded() {
        let mut labels = Labels::new(3);
        let places: Vec<usize> = ["a", "b", "a", "c", "d", "e", "b", "other", "none"]
            .map(|name| labels.place(Some(&Arc::from(name))))
            .to_vec();
        assert_eq!(places, [2, 3, 2, 4, OTHER, OTHER, 3, OTHER, NONE]);
        assert_eq!(labels.place(None), NONE);
        assert_eq!(&**labels.name(4), "c");
    }
}
