//! The text of a position: the epoch, `_` and the offset with 20 digits, so that the texts of one incarnation sort as its
//! offsets do.

use std::fmt;

use super::names::{Epoch, Offset, Position};

impl Position {
    /// Length of the text of a position, in bytes.
    pub const TEXT_LEN: usize = 37;

    /// Parses the text of a position; none where it is not in the exact form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.split_once('_')?;
        if text.len() != Self::TEXT_LEN || !offset.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { epoch: Epoch::parse(epoch)?, offset: Offset::new(offset.parse().ok()?) })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{:020}", self.epoch, self.offset.get())
    }
}

#[cfg(test)]
mod tests {
    use super::{Epoch, Offset, Position};

    #[test]
    fn the_text_of_a_position_is_read_back_and_sorts_as_its_offset() {
        let texts = [0, 9, 10, u64::MAX].map(|offset| {
            let position = Position { epoch: Epoch::new(0xc0ffee), offset: Offset::new(offset) };
            let text = position.to_string();
            assert_eq!((Position::parse(&text), text.len()), (Some(position), Position::TEXT_LEN));
            text
        });
        assert!(texts.is_sorted(), "{texts:?}");
        assert_eq!(texts[1], "0000000000c0ffee_00000000000000000009");
        for bad in [
            "",
            "0000000000c0ffee_9",
            "0000000000c0ffee:00000000000000000009",
            "0000000000C0FFEE_00000000000000000009",
            "0000000000c0ffee_+0000000000000000009",
            "0000000000c0ffee_99999999999999999999",
        ] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
