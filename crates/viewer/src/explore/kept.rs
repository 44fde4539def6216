//! A value that is made anew only where what it depends on changed.

/// A value and what it was made from.
pub(super) struct Kept<K, V> {
    key: Option<K>,
    value: V,
}

impl<K, V: Default> Default for Kept<K, V> {
    fn default() -> Self {
        Self { key: None, value: V::default() }
    }
}

impl<K: PartialEq, V> Kept<K, V> {
    /// Makes the value anew where the key changed; returns whether it did.
    pub(super) fn update(&mut self, key: K, make: impl FnOnce() -> V) -> bool {
        if self.key.as_ref() == Some(&key) {
            return false;
        }
        self.value = make();
        self.key = Some(key);
        true
    }

    /// What the value was made from; nothing before it was made.
    pub(super) fn key(&self) -> Option<&K> {
        self.key.as_ref()
    }
}

impl<K, V> std::ops::Deref for Kept<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_made_once() {
        let mut kept: Kept<u32, u32> = Kept::default();
        assert!(kept.update(1, || 10));
        assert!(!kept.update(1, || 20));
        assert_eq!(*kept, 10);
        assert!(kept.update(2, || 30));
        assert_eq!(*kept, 30);
    }
}
