//! Known formats are named; a file with one good line is read whatever its first one is.

use super::*;

fn name(head: impl AsRef<[u8]>, is_all: bool) -> Option<&'static str> {
    foreign(head.as_ref(), is_all).map(|foreign| foreign.name)
}

fn wide(text: &str, to_bytes: impl Fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to_bytes).collect()
}

#[test]
fn packings_are_told_by_their_first_bytes() {
    for (head, expected) in [
        (&b"\x1f\x8b\x08\x00"[..], Packing::Gzip),
        (b"\x1f\x8b", Packing::None),
        (b"\x28\xb5\x2f\xfd", Packing::Zstd),
        (b"\x50\x2a\x4d\x18\x04", Packing::Zstd),
        (b"\x5f\x2a\x4d\x18", Packing::Zstd),
        (b"\x60\x2a\x4d\x18", Packing::None),
        (b"{}", Packing::None),
        (b"", Packing::None),
    ] {
        assert_eq!(packing(head), expected, "{head:?}");
    }
}

#[test]
fn binary_formats_are_named() {
    let mut tar = vec![0; 512];
    tar[..6].copy_from_slice(b"a.json");
    tar[257..262].copy_from_slice(b"ustar");
    tar.extend_from_slice(b"{\"a\":1}\n");
    for (head, expected) in [
        (&b"PAR1\x15\x04\x15"[..], "a Parquet file"),
        (b"ORC\n\x03\x00", "an ORC file"),
        (b"BZh91AY&SY\xd6\x01", "a bzip2 file"),
        (b"\xfd7zXZ\0\0", "an xz file"),
        (b"\x04\x22\x4d\x18\x64", "an lz4 file"),
        (b"PK\x03\x04\x14\0{\"a\":1}\n{\"a\":2}\n", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive"),
        (b"Obj\x01\x04", "an Avro file"),
        (b"SQLite format 3\0\x10", "an SQLite database"),
        (b"\x1f\x9d\x90", "a file of `compress`"),
        (&tar, "a tar archive"),
    ] {
        assert_eq!(name(head, true), Some(expected));
        assert_eq!(name(head, false), Some(expected));
    }
}

#[test]
fn text_of_two_bytes_a_character_is_named_in_either_order() {
    let text = "{\"k\":\"a\",\"ts\":1}\n{\"k\":\"b\",\"ts\":2}\n";
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        for mark in ["\u{feff}", ""] {
            assert_eq!(name(wide(&format!("{mark}{text}"), order), true), Some("text in UTF-16"), "{mark:?}");
        }
    }
    // Zero bytes in one bad line.
    assert_eq!(name(b"{\0\"\0k\0\"\0:\x001\0}\0 \0 \0 \0\n{\"k\":1}\n", true), None);
}

#[test]
fn json_that_is_not_one_object_a_line_is_named() {
    let long = format!("[{}", "{\"a\":1},".repeat(LIST_BYTES / 8));
    for (head, is_all, expected) in [
        ("[{\"a\":1},{\"a\":2}]", true, "a JSON list"),
        ("  \n [{\"a\":1}]\n", true, "a JSON list"),
        ("[]", true, "a JSON list"),
        ("[\n{\"a\":1},\n{\"a\":2}\n]\n", true, "a JSON list"),
        ("[\n{\"a\":1},\n{\"a\":2},\n", false, "a JSON list"),
        ("[\n  {\n    \"a\": 1", false, "a JSON list"),
        ("[1]\n[2]\n[3]\n", true, "a JSON list"),
        (&long, false, "a JSON list"),
        ("{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n", true, "JSON whose values span lines"),
        ("{\n  \"a\": 1,\n  \"b\": {", false, "JSON whose values span lines"),
        ("\u{feff}[\n{},\n{}\n]", true, "a JSON list"),
    ] {
        assert_eq!(name(head, is_all), Some(expected), "{:?}", &head[..head.len().min(40)]);
    }
}

#[test]
fn tables_are_named() {
    for (head, is_all, expected) in [
        ("k,ts\na,1\n", true, "CSV"),
        ("k,ts\na,1\nb,2\n", false, "CSV"),
        ("\"k\",\"t,s\"\r\n\"a\",1\r\n", true, "CSV"),
        ("k;ts\na;1,5\nb;2,5\n", true, "CSV with semicolons"),
        ("k\tts\na\t1\n", true, "tab-separated values"),
    ] {
        assert_eq!(name(head, is_all), Some(expected), "{head:?}");
    }
}

/// Each is a file with dead letters: some line may be an event, or nothing is sure.
#[test]
fn a_bad_first_line_is_a_dead_letter() {
    let good = "{\"k\":\"a\",\"ts\":1}\n";
    for first in [
        "",
        "\n\n",
        "k,ts\n",
        "a,b\nc,d\n",
        "a;b\n",
        "a\tb\n",
        "[1,2]\n",
        "[\n",
        "[{\"a\":1}]\n",
        "{\n",
        "{\"k\":\"a\",\n",
        "PAR1\n",
        "BZh\n",
        "ORC\n",
        "\u{feff}",
        "\u{0}\n",
        "null\n",
        "# a comment, with a comma\n",
        "[1,\n",
        "{\"a\":[\n",
        "\"text\"\n",
    ] {
        for is_all in [false, true] {
            let head = format!("{first}{good}{good}");
            assert_eq!(name(&head, is_all), None, "{head:?}");
            // Cut anywhere, as a pipe gives it.
            for end in 0..first.len() {
                assert_eq!(name(&head.as_bytes()[..end], false), None, "{:?}", &head.as_bytes()[..end]);
            }
        }
    }
    for text in ["", "k,ts", "k,ts\n", "hello\nworld\n", "a,b\nc\n", "{\"k\":", "PAR1", "[1,2"] {
        assert_eq!(name(text, true), None, "{text:?}");
    }
    // Two lines with commas, and more to come.
    assert_eq!(name("a,b\nc,d\n", false), None);
    let mut binary = b"\xff\xfe\x00\x01\n".to_vec();
    binary.extend_from_slice(good.as_bytes());
    assert_eq!(name(&binary, false), None);
}
