//! The ordered map against the standard library's, operation by operation.

use std::{collections::BTreeMap, ops::Bound};

use faultline_fallible::{OrderedMap, Spare};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Insert(u8, u32),
    InsertSpare(u8, u32),
    Remove(u8),
    Change(u8),
    PopFirst,
    Retain(u8),
    Range(u8, u8),
    Bounds(u8),
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => any::<(u8, u32)>().prop_map(|(key, value)| Operation::Insert(key, value)),
        4 => any::<(u8, u32)>().prop_map(|(key, value)| Operation::InsertSpare(key, value)),
        6 => any::<u8>().prop_map(Operation::Remove),
        2 => any::<u8>().prop_map(Operation::Change),
        2 => Just(Operation::PopFirst),
        1 => (1..8u8).prop_map(Operation::Retain),
        2 => any::<(u8, u8)>().prop_map(|(a, b)| Operation::Range(a.min(b), a.max(b))),
        2 => any::<u8>().prop_map(Operation::Bounds),
        1 => Just(Operation::Clear),
    ]
}

fn pair<'a>((key, value): (&'a u8, &'a u32)) -> (u8, u32) {
    (*key, *value)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_the_standard_librarys(operations in prop::collection::vec(operation(), 1..if cfg!(miri) { 60 } else { 400 })) {
        let (mut map, mut model) = (OrderedMap::new(), BTreeMap::new());
        for operation in operations {
            match operation {
                Operation::Insert(key, value) => {
                    prop_assert_eq!(map.try_insert(key, value), Ok(model.insert(key, value)));
                }
                Operation::InsertSpare(key, value) => {
                    let spare = Spare::try_new().unwrap();
                    prop_assert_eq!(map.insert_spare(spare, key, value), model.insert(key, value));
                }
                Operation::Remove(key) => prop_assert_eq!(map.remove_entry(&key), model.remove_entry(&key)),
                Operation::Change(key) => {
                    let (ours, theirs) = (map.get_mut(&key), model.get_mut(&key));
                    prop_assert_eq!(&ours, &theirs);
                    if let (Some(ours), Some(theirs)) = (ours, theirs) {
                        (*ours, *theirs) = (1, 1);
                    }
                    map.values_mut().for_each(|value| *value ^= 2);
                    model.values_mut().for_each(|value| *value ^= 2);
                }
                Operation::PopFirst => prop_assert_eq!(map.pop_first(), model.pop_first()),
                Operation::Retain(one_in) => {
                    map.retain(|key, _| key % one_in == 0);
                    model.retain(|key, _| key % one_in == 0);
                }
                Operation::Range(low, high) => {
                    let ours: Vec<_> = map.range(low..high).map(pair).collect();
                    let theirs: Vec<_> = model.range(low..high).map(pair).collect();
                    prop_assert_eq!(ours, theirs);
                }
                Operation::Bounds(key) => {
                    let above = model.range((Bound::Excluded(key), Bound::Unbounded)).next().map(pair);
                    prop_assert_eq!(map.lower_bound(Bound::Excluded(&key)).map(pair), above);
                    let below = model.range(..=key).next_back().map(pair);
                    prop_assert_eq!(map.upper_bound(Bound::Included(&key)).map(pair), below);
                    prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
                }
                Operation::Clear => {
                    map.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(map.first().map(pair), model.first_key_value().map(pair));
            prop_assert_eq!(map.last().map(pair), model.last_key_value().map(pair));
        }
        let (ours, theirs): (Vec<_>, Vec<_>) = (map.iter().map(pair).collect(), model.iter().map(pair).collect());
        prop_assert_eq!(ours, theirs);
    }
}
