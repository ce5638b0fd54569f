//! Plain data out of a Python pickle, without running anything.
//!
//! Why not `candle_core::pickle`: a checkpoint is an untrusted file, and that reader panics on short argument
//! tuples, copies shared objects (so that a small file can ask for any amount of memory), and empties a dict that
//! the file refers to twice. Here every value lives once in a flat arena and is referred to by number: memory is
//! bounded by the file's length, sharing is Python's, and nothing recurses.
//!
//! Format: `pickletools` of the Python standard library; PyTorch writes protocol 2, and the opcodes that protocols
//! 3 to 5 use for the same kinds of data are understood too.

use std::collections::HashMap;

/// Number of a value in its [`Pickle`].
pub(super) type Id = usize;

/// A Python value; containers hold the numbers of their members. Values that no checkpoint needs are not kept.
#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function by module and name.
    Global(String, String),
    /// What calling `function` with `arguments` would give.
    Call {
        function: Id,
        arguments: Id,
    },
    /// An object that the file keeps elsewhere (PyTorch: a storage).
    Persistent(Id),
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// The values in `bytes`.
    ///
    /// # Errors
    /// Offset and reason where they are not a pickle of plain data.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine { bytes, ..Machine::default() };
        loop {
            let offset = machine.at;
            match machine.step() {
                Ok(Some(root)) => return Ok(Self { values: machine.values, root }),
                Ok(None) => {}
                Err(what) => return Err(format!("byte {offset} of the pickle: {what}")),
            }
        }
    }

    /// Number of the outermost value.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    /// The value of that number.
    pub(super) fn get(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::None)
    }

    /// The value under `key` in a dict; `None` where there is no such key, or `dict` is not one.
    pub(super) fn lookup(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(entries) = self.get(dict) else { return None };
        let is_key = |id: Id| matches!(self.get(id), Value::Text(text) if text == key);
        entries.iter().rev().find(|(k, _)| is_key(*k)).map(|(_, value)| *value)
    }

    /// The text, if it is one.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Value::Text(text) = self.get(id) { Some(text) } else { None }
    }

    /// The members of a tuple or list.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(members) | Value::List(members) => Some(members),
            _ => None,
        }
    }

    /// The integer, if it is one and not negative.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        if let Value::Int(value) = self.get(id) { usize::try_from(*value).ok() } else { None }
    }

    /// Integers of a tuple or list; `None` where it is another kind of value or a member is.
    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.sequence(id)?.iter().map(|member| self.size(*member)).collect()
    }
}

/// The pickle virtual machine: a stack, marks in it, and a memo.
#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl Machine<'_> {
    /// Carries out one opcode; the root once the pickle ends.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode)?,
            b'N' | 0x88 | 0x89 | b'K' | b'M' | b'J' | 0x8a | b'G' => self.scalar(opcode)?,
            b'X' | 0x8c | 0x8d | b'C' | b'B' | b'U' | b'T' => self.string(opcode)?,
            b')' | 0x85 | 0x86 | 0x87 | b't' | b']' | b'l' | b'}' | b'd' => self.container(opcode)?,
            b'a' | b'e' | b's' | b'u' => self.insert(opcode)?,
            b'c' | 0x93 | b'R' | 0x81 | b'b' | b'Q' => self.object(opcode)?,
            _ => return Err(format!("opcode {opcode:#04x} is not part of plain data")),
        }
        Ok(None)
    }

    fn memo(&mut self, opcode: u8) -> Result<(), String> {
        let key = match opcode {
            b'q' | b'h' => self.unsigned(1)?,
            b'r' | b'j' => self.unsigned(4)?,
            _ => self.memo.len(),
        };
        if matches!(opcode, b'h' | b'j') {
            let id = *self.memo.get(&key).ok_or_else(|| format!("memo {key} is empty"))?;
            self.stack.push(id);
        } else {
            let top = *self.stack.last().ok_or("the stack is empty")?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    fn scalar(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool,
            b'K' => Value::Int(self.unsigned(1)? as i64),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            b'J' => Value::Int(i64::from(self.unsigned(4)? as u32 as i32)),
            b'G' => {
                self.take(8)?;
                Value::Float
            }
            _ => {
                let length = self.unsigned(1)?;
                let bytes = self.take(length)?;
                let sign = bytes.last().map_or(0, |b| if b & 0x80 == 0 { 0 } else { 0xff });
                let mut wide = [sign; 8];
                // Longer ones do not fit; Python objects that hold them (seeds, hashes) are not looked at.
                let kept = length.min(8);
                wide[..kept].copy_from_slice(&bytes[..kept]);
                Value::Int(i64::from_le_bytes(wide))
            }
        };
        self.push(value);
        Ok(())
    }

    fn string(&mut self, opcode: u8) -> Result<(), String> {
        let length = match opcode {
            0x8c | b'C' | b'U' => self.unsigned(1)?,
            0x8d => self.unsigned(8)?,
            _ => self.unsigned(4)?,
        };
        let bytes = self.take(length)?;
        let value = if matches!(opcode, b'C' | b'B') {
            Value::Bytes
        } else {
            Value::Text(std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8")?.to_owned())
        };
        self.push(value);
        Ok(())
    }

    fn container(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b')' => Value::Tuple(Vec::new()),
            0x85..=0x87 => {
                let length = usize::from(opcode - 0x84);
                Value::Tuple(self.pop_many(length)?)
            }
            b't' => Value::Tuple(self.pop_marked()?),
            b']' => Value::List(Vec::new()),
            b'l' => Value::List(self.pop_marked()?),
            b'}' => Value::Dict(Vec::new()),
            _ => Value::Dict(pairs(&self.pop_marked()?)?),
        };
        self.push(value);
        Ok(())
    }

    fn insert(&mut self, opcode: u8) -> Result<(), String> {
        let members = match opcode {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_marked()?,
        };
        let target = *self.stack.last().ok_or("the stack is empty")?;
        match (opcode, self.values.get_mut(target)) {
            (b'a' | b'e', Some(Value::List(list))) => list.extend(members),
            (b's' | b'u', Some(Value::Dict(entries))) => entries.extend(pairs(&members)?),
            // Members given to some class's object: nothing that a checkpoint's plain data needs.
            (_, Some(Value::Call { .. })) => {}
            _ => return Err("members for something that is no container".to_owned()),
        }
        Ok(())
    }

    fn object(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'c' => Value::Global(self.line()?, self.line()?),
            0x93 => {
                let [module, name] = self.pop_array()?;
                match (self.values.get(module), self.values.get(name)) {
                    (Some(Value::Text(module)), Some(Value::Text(name))) => {
                        Value::Global(module.clone(), name.clone())
                    }
                    _ => return Err("a global's name is not text".to_owned()),
                }
            }
            b'Q' => Value::Persistent(self.pop()?),
            b'b' => {
                // The state of an object (an OrderedDict's `_metadata`, say); its items come before.
                let [_state] = self.pop_array()?;
                return if self.stack.is_empty() { Err("the stack is empty".to_owned()) } else { Ok(()) };
            }
            _ => {
                let [function, arguments] = self.pop_array()?;
                match self.values.get(function) {
                    Some(Value::Global(module, name)) if module == "collections" && name == "OrderedDict" => {
                        Value::Dict(Vec::new())
                    }
                    _ => Value::Call { function, arguments },
                }
            }
        };
        self.push(value);
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let [id] = self.pop_array()?;
        Ok(id)
    }

    fn pop_array<const N: usize>(&mut self) -> Result<[Id; N], String> {
        let popped = self.pop_many(N)?;
        popped.try_into().map_err(|_| "the stack is empty".to_owned())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err("the stack is empty".to_owned()),
        }
    }

    fn pop_marked(&mut self) -> Result<Vec<Id>, String> {
        let start = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(start.min(self.stack.len())))
    }

    fn unsigned(&mut self, width: usize) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length does not fit this machine".to_owned())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|b| *b == b'\n').ok_or("the pickle ends inside a name")?;
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the pickle ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

fn pairs(members: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = members.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    } else {
        Err("a dict with a key but no value".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dict_referred_to_twice_is_the_same_dict() {
        // pickle.dumps((d := {"a": -2}, d, 2**40), protocol=2) and protocol=4
        let two = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01J\xfe\xff\xff\xffsh\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x87q\x02.";
        let four = b"\x80\x04\x95\x17\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94J\xfe\xff\xff\xffsh\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x87\x94.";
        for bytes in [two.as_slice(), four.as_slice()] {
            let pickle = Pickle::parse(bytes).unwrap();
            let members = pickle.sequence(pickle.root()).unwrap();
            assert_eq!(members[0], members[1]);
            let value = pickle.lookup(members[0], "a").unwrap();
            assert!(matches!(pickle.get(value), Value::Int(-2)), "{pickle:?}");
            assert_eq!(pickle.size(members[2]), Some(1 << 40));
        }
    }

    #[test]
    fn damage_is_named() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "byte 0 of the pickle: the pickle ends too early"),
            (b"\x80\x02", "byte 2 of the pickle: the pickle ends too early"),
            (b".", "byte 0 of the pickle: the stack is empty"),
            (b"(\x85.", "byte 1 of the pickle: the stack is empty"),
            (b"h\x05.", "byte 0 of the pickle: memo 5 is empty"),
            (b"}(Nu.", "byte 3 of the pickle: a dict with a key but no value"),
            (b"X\xff\xff\xff\xffab", "byte 0 of the pickle: the pickle ends too early"),
            (b"I1\n.", "byte 0 of the pickle: opcode 0x49 is not part of plain data"),
        ];
        for (bytes, message) in cases {
            assert_eq!(Pickle::parse(bytes).unwrap_err(), message);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(b"NK(t\x85\x86\x87)]}aesuqhRbcQ.0".to_vec())], 0..80,
        )) {
            if let Ok(pickle) = Pickle::parse(&bytes) {
                prop_assert!(pickle.values.len() <= bytes.len());
            }
        }
    }
}
