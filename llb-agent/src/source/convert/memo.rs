// SPDX-License-Identifier: Apache-2.0
//! Remembers what objects were converted to. Not: how they are converted.

use std::collections::HashMap;
use std::sync::Arc;

/// Objects and the results of their conversion, by the object's memory address. No other
/// object can have the same address as long as the object is kept here.
#[derive(Debug)]
pub(super) struct Memo<K, V>(HashMap<usize, (Arc<K>, V)>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K, V> Memo<K, V> {
    /// The results of `convert`, a pure function, for all `objects` in their order. Objects
    /// that are not among them are forgotten.
    pub(super) fn convert(
        &mut self,
        objects: Vec<Arc<K>>,
        convert: impl Fn(&K) -> V,
    ) -> impl Iterator<Item = &V> {
        let mut before = std::mem::take(&mut self.0);
        let mut addresses = Vec::with_capacity(objects.len());
        for object in objects {
            let address = Arc::as_ptr(&object).addr();
            addresses.push(address);
            let known = before.remove(&address);
            self.0.entry(address).or_insert_with(|| {
                known.unwrap_or_else(|| {
                    let converted = convert(&object);
                    (object, converted)
                })
            });
        }
        let all = &self.0;
        addresses.into_iter().filter_map(move |address| Some(&all.get(&address)?.1))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_same_object_is_converted_only_once() {
        let (mut memo, calls) = (Memo::default(), Cell::new(0));
        let [first, second] = [Arc::new(1), Arc::new(2)];
        let mut doubled = |objects: &[&Arc<i32>]| -> (Vec<i32>, i32) {
            calls.set(0);
            let objects = objects.iter().map(|object| Arc::clone(object)).collect();
            let convert = |number: &i32| {
                calls.set(calls.get() + 1);
                number * 2
            };
            let all: Vec<i32> = memo.convert(objects, convert).copied().collect();
            (all, calls.get())
        };
        assert_eq!(doubled(&[&first, &second]), (vec![2, 4], 2));
        assert_eq!(doubled(&[&second, &first, &first]), (vec![4, 2, 2], 0));
        assert_eq!(doubled(&[&Arc::new(1)]), (vec![2], 1), "equal, but not the same");
        assert_eq!(doubled(&[&first]), (vec![2], 1), "it was forgotten");
    }
}
