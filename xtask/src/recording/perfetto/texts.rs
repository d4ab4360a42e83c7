//! The texts of a trace, each written once: events name them by numbers.

use std::borrow::Cow;
use std::collections::HashMap;

use super::schema::{DebugAnnotation, Interned, InternedData};

/// What is said of an event in more words.
#[derive(Clone, Debug)]
pub struct Note {
    name: &'static str,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Pointer(u64),
    Text(Cow<'static, str>),
}

/// A number.
pub fn number(name: &'static str, value: u64) -> Note {
    Note {
        name,
        value: Value::Number(value),
    }
}

/// A number that is shown in hexadecimal.
pub fn pointer(name: &'static str, value: u64) -> Note {
    Note {
        name,
        value: Value::Pointer(value),
    }
}

/// A text.
pub fn note(name: &'static str, value: impl Into<Cow<'static, str>>) -> Note {
    Note {
        name,
        value: Value::Text(value.into()),
    }
}

/// The numbers of texts of one kind, from 1 on.
#[derive(Debug, Default)]
struct Numbers(HashMap<String, u64>);

impl Numbers {
    fn of(&mut self, text: &str) -> u64 {
        if let Some(number) = self.0.get(text) {
            return *number;
        }
        let number = self.0.len() as u64 + 1;
        self.0.insert(text.to_owned(), number);
        number
    }

    fn interned(self) -> Vec<Interned> {
        let mut texts: Vec<_> = self.0.into_iter().map(|(text, number)| (number, text)).collect();
        texts.sort_unstable();
        let interned = |(number, text)| Interned {
            iid: Some(number),
            text: Some(text),
        };
        texts.into_iter().map(interned).collect()
    }
}

/// All texts of a trace, by what they are used for.
#[derive(Debug, Default)]
pub struct Texts {
    categories: Numbers,
    names: Numbers,
    note_names: Numbers,
    note_values: Numbers,
}

impl Texts {
    /// What an event is filed under.
    pub fn category(&mut self, text: &str) -> u64 {
        self.categories.of(text)
    }

    /// The name of an event.
    pub fn name(&mut self, text: &str) -> u64 {
        self.names.of(text)
    }

    /// What is said in more words.
    pub fn annotation(&mut self, note: Note) -> DebugAnnotation {
        let mut annotation = DebugAnnotation {
            name_iid: Some(self.note_names.of(note.name)),
            ..Default::default()
        };
        match note.value {
            Value::Number(value) => annotation.uint_value = Some(value),
            Value::Pointer(value) => annotation.pointer_value = Some(value),
            Value::Text(text) => annotation.string_value_iid = Some(self.note_values.of(&text)),
        }
        annotation
    }

    /// The texts with their numbers.
    pub fn finish(self) -> InternedData {
        InternedData {
            event_categories: self.categories.interned(),
            event_names: self.names.interned(),
            debug_annotation_names: self.note_names.interned(),
            debug_annotation_string_values: self.note_values.interned(),
        }
    }
}
