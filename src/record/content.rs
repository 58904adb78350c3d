//! The checksum of a batch's content, which is used to recognize a repeated publish. A client encodes the records anew
//! when it repeats a publish, and the headers of a record are a map: Go, for example, writes them in another order.

use super::walk::{Fields, Value};

/// Field number of `headers` in a `Record`, and of `records` in a batch.
const REPEATED: u32 = 3;

/// Checksum of encoded `records` fields, whose CRC32C is `crc`. It is equal to `crc` unless a record has several
/// headers.
#[must_use]
pub fn checksum(records: &[u8], crc: u32) -> u32 {
    let is_map = |record: &[u8]| headers(record).nth(1).is_some();
    if each(records).any(is_map) { each(records).fold(0, add) } else { crc }
}

fn each(records: &[u8]) -> impl Iterator<Item = &[u8]> {
    contents(records).map(|range| &records[range])
}

fn headers(record: &[u8]) -> impl Iterator<Item = &[u8]> {
    contents(record).map(|range| &record[range])
}

/// Ranges of the contents of the repeated field.
fn contents(bytes: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    Fields::new(bytes).map_while(Result::ok).filter_map(|field| match (field.number, field.value) {
        (REPEATED, Value::Len(range)) => Some(range),
        _ => None,
    })
}

/// Adds a record to a checksum: its headers in any order, its other fields in theirs.
fn add(sum: u32, record: &[u8]) -> u32 {
    let others = Fields::new(record).map_while(Result::ok).filter(|field| field.number != REPEATED);
    let sum = others.fold(sum, |sum, field| crc32c::crc32c_append(sum, &record[field.at]));
    let headers = headers(record).map(crc32c::crc32c).fold((0_u32, 0_u32), |(count, all), header| {
        // The CRC of a CRC: a plain sum would not change if two headers swapped a part.
        (count + 1, all.wrapping_add(crc32c::crc32c(&header.to_le_bytes())))
    });
    let sum = crc32c::crc32c_append(sum, &headers.0.to_le_bytes());
    crc32c::crc32c_append(sum, &headers.1.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::checksum;
    use proptest::prelude::*;

    fn record(value: &[u8], headers: &[(String, String)]) -> Vec<u8> {
        let mut record = Vec::new();
        prost::encoding::bytes::encode(2, &value.to_vec(), &mut record);
        for (key, text) in headers {
            let mut entry = Vec::new();
            prost::encoding::string::encode(1, key, &mut entry);
            prost::encoding::string::encode(2, text, &mut entry);
            prost::encoding::bytes::encode(3, &entry, &mut record);
        }
        record
    }

    fn sum(records: &[Vec<u8>]) -> u32 {
        let mut fields = Vec::new();
        records.iter().for_each(|record| prost::encoding::bytes::encode(3, record, &mut fields));
        checksum(&fields, crc32c::crc32c(&fields))
    }

    proptest! {
        /// P5: a repeated publish that was encoded anew has the same content.
        #[test]
        fn the_order_of_headers_does_not_matter(
            value: Vec<u8>,
            headers in proptest::collection::vec((".{0,5}", ".{0,5}"), 0..6).prop_shuffle(),
        ) {
            let plain = record(b"before", &[("a".to_owned(), "b".to_owned())]);
            let mut turned = headers.clone();
            turned.reverse();
            let before = [plain.clone(), record(&value, &headers)];
            prop_assert_eq!(sum(&before), sum(&[plain.clone(), record(&value, &turned)]));
            prop_assert_ne!(sum(&before), sum(&[record(&value, &headers), plain]));
        }

        #[test]
        fn any_other_content_has_another_checksum(
            value in proptest::collection::vec(any::<u8>(), 1..20),
            headers in proptest::collection::vec((".{1,5}", ".{1,5}"), 1..5),
            at: prop::sample::Index, bit in 0..8_u8,
        ) {
            let before = sum(&[record(&value, &headers)]);
            let mut other = value.clone();
            other[at.index(value.len())] ^= 1 << bit;
            prop_assert_ne!(before, sum(&[record(&other, &headers)]));
            let mut other = headers.clone();
            let changed = &mut other[at.index(headers.len())];
            changed.1.push('x');
            prop_assert_ne!(before, sum(&[record(&value, &other)]));
            prop_assert_ne!(before, sum(&[record(&value, &headers[1..])]));
        }
    }

    #[test]
    fn swapped_values_have_another_checksum() {
        let of = |a: &str, b: &str| {
            record(b"v", &[("k".to_owned(), a.to_owned()), ("l".to_owned(), b.to_owned())])
        };
        assert_ne!(sum(&[of("x", "y")]), sum(&[of("y", "x")]));
        assert_ne!(sum(&[of("x", "y"), of("p", "q")]), sum(&[of("p", "q"), of("x", "y")]));
    }
}
