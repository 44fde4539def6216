//! Values as bytes, for messages between two copies of the same program: little-endian, without names or versions.

use half::f16;

/// A value that can travel.
pub(super) trait Packed: Sized {
    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads it from the front of `from` and moves on; `None` where the bytes are no such value.
    fn get(from: &mut &[u8]) -> Option<Self>;
}

/// The next bytes of a message.
pub(super) fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(head)
}

macro_rules! packed_numbers {
    ($($Number:ty),*) => {$(
        impl Packed for $Number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn get(from: &mut &[u8]) -> Option<Self> {
                let bytes = take(from, size_of::<$Number>())?;
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}

packed_numbers!(u8, i32, u32, u64, f32, f16);

/// A struct as its fields in a row.
macro_rules! packed_struct {
    ($Name:ident { $($field:ident),+ $(,)? }) => {
        impl Packed for $Name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)+
            }

            fn get(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Packed::get(from)?),+ })
            }
        }
    };
}
pub(super) use packed_struct;

impl Packed for usize {
    fn put(&self, out: &mut Vec<u8>) {
        (*self as u64).put(out);
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        usize::try_from(u64::get(from)?).ok()
    }
}

impl Packed for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        match u8::get(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Packed for String {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        let count = usize::get(from)?;
        String::from_utf8(take(from, count)?.to_vec()).ok()
    }
}

impl<T: Packed> Packed for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.reserve(self.len() * size_of::<T>());
        for value in self {
            value.put(out);
        }
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        let count = usize::get(from)?;
        // A length that the rest of the message cannot hold must not allocate.
        let mut values = Vec::with_capacity(count.min(from.len()));
        for _ in 0..count {
            values.push(T::get(from)?);
        }
        Some(values)
    }
}

impl<T: Packed> Packed for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        if bool::get(from)? { T::get(from).map(Some) } else { Some(None) }
    }
}

impl<A: Packed, B: Packed> Packed for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        Some((A::get(from)?, B::get(from)?))
    }
}

impl<T: Packed, const N: usize> Packed for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        for value in self {
            value.put(out);
        }
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        let values: Option<Vec<T>> = (0..N).map(|_| T::get(from)).collect();
        values?.try_into().ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A value comes back from its bytes, and from no beginning of them.
    pub(in super::super) fn round<T: Packed + PartialEq + std::fmt::Debug>(value: &T) {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        let mut rest = &bytes[..];
        assert_eq!(T::get(&mut rest).as_ref(), Some(value));
        assert!(rest.is_empty(), "{} bytes left of {value:?}", rest.len());
        for short in 0..bytes.len() {
            assert_eq!(T::get(&mut &bytes[..short]), None, "{value:?} cut to {short} bytes");
        }
    }

    #[test]
    fn values_come_back_and_cut_ones_do_not() {
        round(&(7_u32, "a fox".to_owned()));
        round(&vec![Some(1.5_f32), None, Some(f32::NEG_INFINITY)]);
        round(&[3_usize, usize::MAX >> 8]);
        round(&(true, vec![f16::from_f32(0.25)]));
    }

    #[test]
    fn bits_of_numbers_are_kept() {
        let mut bytes = Vec::new();
        let values = [f32::from_bits(0x7fc0_1234), -0.0, f32::from_bits(1)];
        values.put(&mut bytes);
        let back = <[f32; 3]>::get(&mut &bytes[..]).unwrap();
        assert_eq!(back.map(f32::to_bits), values.map(f32::to_bits));
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        let mut bytes = Vec::new();
        u64::MAX.put(&mut bytes);
        assert_eq!(Vec::<u8>::get(&mut &bytes[..]), None);
        assert_eq!(String::get(&mut &bytes[..]), None);
    }
}
