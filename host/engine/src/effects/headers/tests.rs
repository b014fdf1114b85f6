//! Header blocks: what a producer says stays a producer's word, whatever bytes it is made of.

use proptest::prelude::*;

use super::*;

fn kept(block: &[u8]) -> String {
    let mut data = Vec::new();
    assert!(Headers::new(&mut data).keep(block, usize::MAX));
    String::from_utf8(data).expect("header blocks are text")
}

#[test]
fn words_of_host_and_server_are_kept_under_another_name() {
    let block = b"User: 1\r\nNats-Msg-Id: 2\r\npelton-dlq-path: /x\r\nPELTON-Id: 3\r\nPelton-Original-Nats-Msg-Id: 4\r\nPeltonic: 5\r\n";
    let expected = "User: 1\r\nPelton-Original-Nats-Msg-Id: 2\r\nPelton-Original-pelton-dlq-path: /x\r\nPelton-Original-PELTON-Id: 3\r\n\
                    Pelton-Original-Pelton-Original-Nats-Msg-Id: 4\r\nPeltonic: 5\r\n";
    assert_eq!(kept(block), expected);
}

#[test]
fn what_no_client_reads_is_made_visible() {
    assert_eq!(kept(b"A b: caf\xe9\r\n"), "A%20b: caf\u{fffd}\r\n");
    assert_eq!(kept(b" Pelton-Id: 1\r\n"), "%20Pelton-Id: 1\r\n");
    assert_eq!(
        kept(b"no colon\r\n: no name\r\n"),
        "Pelton-Original-Line: no colon\r\nPelton-Original-Line: : no name\r\n"
    );
    assert_eq!(kept(b"A: x\ry\r\nB:\r\nC:  two\r\n"), "A: x\\ry\r\nB: \r\nC:  two\r\n");
}

#[test]
fn lines_that_do_not_fit_are_left_out() {
    let mut data = b"own".to_vec();
    let mut headers = Headers::new(&mut data);
    assert!(!headers.keep(b"A: 1\r\nLong: 0123456789\r\nB: 2\r\n", 3 + 14));
    assert_eq!(data, b"ownA: 1\r\nB: 2\r\n");
}

#[test]
fn a_long_value_is_cut_between_characters() {
    let mut data = Vec::new();
    Headers::new(&mut data).put_at_most(9, "A", "äöüäöü").put_at_most(9, "B", "a\nb");
    assert_eq!(data, "A: äöü…\r\nB: a\\nb\r\n".as_bytes());
}

#[test]
fn a_long_key_is_shortened_and_its_length_told() {
    let (short, long) = ("k".repeat(KEY_MAX), "k".repeat(KEY_MAX + 1));
    let mut data = Vec::new();
    Headers::new(&mut data).put_key(short.as_bytes()).put_key(long.as_bytes());
    let expected =
        format!("Pelton-Key: {short}\r\nPelton-Key: {}\r\nPelton-Key-Bytes: 1025\r\n", key_token(long.as_bytes()));
    assert_eq!(String::from_utf8(data).unwrap(), expected);
}

#[test]
fn tokens_of_different_keys_differ() {
    assert_eq!(key_token(b"a-b_C9"), "a-b_C9");
    assert_eq!(key_token("ä.*> =".as_bytes()), "=C3=A4=2E=2A=3E=20=3D");
    assert_eq!(key_token(b""), "=");
    let long = [b'x'; 129];
    let token = key_token(&long);
    assert_eq!(token, format!("{}==0ec9eb33e74510bcdd1f2ea55206e82f", "x".repeat(64)));
    assert_ne!(token, key_token(&[b'x'; 130]));
    // No other key is written so.
    assert_ne!(key_token(token.as_bytes()), token);
}

proptest! {
    #[test]
    fn any_block_becomes_lines_that_every_client_reads(block in prop::collection::vec(any::<u8>(), 0..200), seed in "(Nats-|pelton-|A|:|\r|\n|\u{e9}){0,6}") {
        let text = kept(&[seed.as_bytes(), &block].concat());
        for line in text.split_terminator("\r\n") {
            let (name, value) = line.split_once(':').expect("a colon");
            prop_assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{line:?}");
            prop_assert!(value.starts_with(' ') && !value.contains(['\r', '\n']), "{line:?}");
            let lower = name.to_ascii_lowercase();
            prop_assert!(!lower.starts_with("nats-"), "{line:?}");
            prop_assert!(!lower.starts_with("pelton-") || name.starts_with(KEPT), "{line:?}");
        }
    }

    #[test]
    fn a_key_never_takes_more_than_said(key in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut data = Vec::new();
        Headers::new(&mut data).put_key(&key);
        prop_assert!(data.len() <= KEY_BYTES_MAX.min(3 * key.len() + 64), "{} of {}", data.len(), key.len());
    }
}
