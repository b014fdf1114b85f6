//! Inputs are read whole and in order, from wherever a run goes on, and packed ones like plain ones.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use pelton_engine::time::WallTime;

use super::super::format::BYTE_ORDER_MARK;
use super::*;

const LIMIT: u64 = 64;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(text, 1).unwrap()
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(files: &[(&str, &[u8])]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        Scene { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn inputs(&self, names: &[&str]) -> Arc<Inputs> {
        Arc::new(Inputs::find(&names.iter().map(|name| self.path(name)).collect::<Vec<_>>()).unwrap())
    }
}

/// What a run would see: payloads, and the progress behind each line with the line's position.
#[derive(Debug, Default)]
struct Seen {
    lines: Vec<String>,
    after: Vec<(InputProgress, Position)>,
    failure: Option<String>,
}

fn read_from(inputs: &Arc<Inputs>, mut progress: InputProgress, mut position: Position) -> Seen {
    let mut seen = Seen::default();
    let reader = match Reader::prepare(inputs.clone(), &progress, position, LIMIT) {
        Ok(reader) => reader.start().unwrap(),
        Err(failure) => return Seen { failure: Some(failure.to_string()), ..seen },
    };
    loop {
        match reader.recv().expect("the reader says how it ends") {
            Read::Begun { .. } => {}
            Read::Chunk(chunk) => {
                for (event, end) in chunk.batch.events.iter().zip(&chunk.ends) {
                    assert_eq!(event.sequence, position.sequence + 1, "no line is left out or doubled");
                    let payload = chunk.batch.slice(&event.payload);
                    let fingerprint = fingerprint(event.published.0, payload);
                    position = Position { sequence: event.sequence, fingerprint };
                    progress.take(progress.offset(), *end);
                    progress.arrived(event.published);
                    seen.lines.push(String::from_utf8_lossy(payload).into_owned());
                    seen.after.push((progress.clone(), position));
                }
            }
            Read::Next { stored_bytes } => progress.next_file(stored_bytes, position.sequence),
            Read::End { .. } => return seen,
            Read::Failed(failure) => return Seen { failure: Some(failure.to_string()), ..seen },
        }
    }
}

fn read(inputs: &Arc<Inputs>) -> Seen {
    read_from(inputs, InputProgress::fresh(inputs), Position::default())
}

/// Reads all, and then from behind each line on: the rest must be the same.
fn check(inputs: &Arc<Inputs>, expected: &[&str]) {
    let all = read(inputs);
    assert_eq!((all.lines.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), &all.failure), (expected, &None));
    for (idx, (progress, position)) in all.after.iter().enumerate() {
        let mut progress = progress.clone();
        progress.check(inputs).unwrap();
        let rest = read_from(inputs, progress, *position);
        assert_eq!((rest.lines.as_slice(), &rest.failure), (&all.lines[idx + 1..], &None), "behind line {}", idx + 1);
    }
}

/// Its end is not the end of the input: nothing may close for it.
#[test]
fn a_file_that_shrinks_while_it_is_read_has_no_end() {
    let text = format!("{{\"a\":\"{}\"}}\n", "x".repeat(1000)).repeat(64 << 10);
    let lines = text.len() / 1009;
    for more in [0, 10 << 20] {
        let scene = Scene::new(&[("a", text.as_bytes())]);
        let inputs = scene.inputs(&["a"]);
        let progress = InputProgress::fresh(&inputs);
        let reader = Reader::prepare(inputs, &progress, Position::default(), 4096).unwrap().start().unwrap();
        // It has read some, and waits for somebody to take that; how much it reads ahead is up to the machine.
        let mut seen = 0;
        while seen == 0 {
            if let Read::Chunk(chunk) = reader.recv().unwrap() {
                seen += chunk.ends.len();
            }
        }
        // Cut off, or written anew to a part of its length, as log rotation does.
        let file = std::fs::File::options().write(true).open(scene.path("a")).unwrap();
        file.set_len(1000).unwrap();
        file.set_len(1000 + more).unwrap();
        let failure = loop {
            match reader.recv().unwrap() {
                Read::Chunk(chunk) => seen += chunk.ends.len(),
                Read::Failed(failure) => break failure,
                Read::End { .. } => panic!("the end, after {seen} of {lines} lines"),
                Read::Begun { .. } | Read::Next { .. } => {}
            }
        };
        assert!(failure.to_string().contains("has shrunk to ") && failure.exit() == Exit::Halted, "{failure}");
        assert!(seen < lines, "{seen}");
    }
}

/// Also when what is left is more than what was read of it.
#[test]
fn a_file_that_has_less_than_when_it_was_opened_has_no_end() {
    let scene = Scene::new(&[("a", "{}\n".repeat(1 << 20).as_bytes())]);
    let inputs = scene.inputs(&["a"]);
    let mut source = Source::open(&inputs.list[0], Moments::default(), &ByteCount::default()).unwrap();
    std::fs::File::options().write(true).open(scene.path("a")).unwrap().set_len(2 << 20).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let error = loop {
        match source.read(&mut buffer) {
            Ok(count) => assert!(count > 0, "the end, after {} bytes", source.offset),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("has shrunk to 2097152 bytes"), "{error}");
}

#[test]
fn several_inputs_are_one_run_of_lines() {
    let packed = gzip(b"{\"d\":1}\n{\"e\":1}");
    let scene = Scene::new(&[
        ("a", b"{\"a\":1}\n{\"b\":1}\r\n"),
        ("b", b""),
        ("c", b"\xef\xbb\xbf{\"c\":1}\n\n"),
        ("d", &packed),
        ("e", b"\xef\xbb\xbf"),
        ("f", b"{\"f\":1}"),
    ]);
    let expected = ["{\"a\":1}", "{\"b\":1}", "{\"c\":1}", "", "{\"d\":1}", "{\"e\":1}", "{\"f\":1}"];
    check(&scene.inputs(&["a", "b", "c", "d", "e", "f"]), &expected);
    check(&scene.inputs(&["e", "b"]), &[]);
}

#[test]
fn packed_inputs_are_read_with_all_their_parts() {
    let (one, two) = (b"{\"a\":1}\n{\"b\"".as_slice(), b":1}\n{\"c\":1}\n".as_slice());
    let expected = ["{\"a\":1}", "{\"b\":1}", "{\"c\":1}"];
    let mark = [BYTE_ORDER_MARK, one].concat();
    // A frame that readers skip, as parallel compressors write it.
    let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".as_slice(), &zstd(one), &zstd(two)].concat();
    for bytes in [
        [gzip(one), gzip(two)].concat(),
        [gzip(b""), gzip(one), gzip(b""), gzip(two)].concat(),
        [gzip(&mark), gzip(two)].concat(),
        [zstd(one), zstd(two)].concat(),
        [zstd(&mark), zstd(b""), zstd(two)].concat(),
        skipped,
    ] {
        // Whatever it is called.
        let scene = Scene::new(&[("plays.jsonl", &bytes)]);
        check(&scene.inputs(&["plays.jsonl"]), &expected);
    }
}

/// Every cut and every flipped byte of the check sum is noticed; what came before is read.
#[test]
fn a_damaged_packed_input_is_told() {
    let text = (0..20_000).map(|idx| format!("{{\"n\":{idx}}}\n")).collect::<String>();
    for (packed, packing) in [(gzip(text.as_bytes()), "gzip"), (zstd(text.as_bytes()), "zstd")] {
        for cut in [1, 3, 4, 8, 9, packed.len() / 2] {
            let scene = Scene::new(&[("a", &packed[..packed.len() - cut])]);
            let seen = read(&scene.inputs(&["a"]));
            let said = seen.failure.unwrap_or_default();
            assert!(said.contains("/a is damaged: its ") && said.contains(packing), "{packing} less {cut}: {said:?}");
            assert!(!seen.lines.iter().any(|line| !line.ends_with('}')), "no piece of a line is an event");
            assert!(seen.lines.len() > 1000 || packing == "zstd", "{packing} less {cut}: {}", seen.lines.len());
        }
    }
    let mut wrong = gzip(text.as_bytes());
    let at = wrong.len() - 8;
    wrong[at] ^= 1;
    let scene = Scene::new(&[("a", &wrong)]);
    assert!(read(&scene.inputs(&["a"])).failure.unwrap().contains("checksum"));
    let rubbish = [gzip(b"{}\n"), b"rubbish".to_vec()].concat();
    let scene = Scene::new(&[("a", &rubbish)]);
    assert!(read(&scene.inputs(&["a"])).failure.unwrap().contains("damaged"));
}

#[test]
fn another_format_is_refused_before_anything_is_read() {
    for (bytes, expected) in [
        (b"PAR1\x15\x00".to_vec(), "a Parquet file"),
        (b"[{\"a\":1},{\"a\":2}]\n".to_vec(), "a JSON list"),
        (gzip(b"k,ts\na,1\n"), "CSV"),
        (gzip(&gzip(b"{}\n")), "packed twice"),
        (zstd(&gzip(b"{}\n")), "packed twice"),
        (b"\xff\xfe{\0}\0\n\0".to_vec(), "UTF-16"),
    ] {
        let scene = Scene::new(&[("a", b"{}\n"), ("b", &bytes)]);
        let seen = read(&scene.inputs(&["a", "b"]));
        assert!(seen.lines.is_empty(), "{expected}");
        let said = seen.failure.unwrap_or_default();
        assert!(said.contains("/b is ") && said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_changed_line_is_noticed_wherever_it_is() {
    let text = b"{\"a\":1}\n{\"b\":1}\n{\"c\":1}\n";
    let other = b"{\"a\":1}\n{\"b\":2}\n{\"c\":1}\n";
    type Pack = fn(&[u8]) -> Vec<u8>;
    let packs: [Pack; 3] = [<[u8]>::to_vec, gzip, zstd];
    for pack in packs {
        let scene = Scene::new(&[("0", b"{}\n"), ("a", &pack(text))]);
        let inputs = scene.inputs(&["0", "a"]);
        let all = read(&inputs);
        let (progress, position) = all.after[2].clone();
        std::fs::write(scene.path("a"), pack(other)).unwrap();
        let said = read_from(&inputs, progress.clone(), position).failure.unwrap();
        assert!(said.contains("line 3 of") && said.contains("the file was changed"), "{said}");
        std::fs::write(scene.path("a"), pack(&text[..3])).unwrap();
        let said = read_from(&inputs, progress, position).failure.unwrap();
        assert!(said.contains("the file was changed"), "{said}");
    }
}

#[test]
fn a_line_that_is_too_long_is_recognised_again() {
    let text = format!("{{}}\n{}\n{{}}\n", "ä".repeat(5000));
    let scene = Scene::new(&[("a", text.as_bytes())]);
    let kept = "ä".repeat(LIMIT as usize / 2);
    check(&scene.inputs(&["a"]), &["{}", &kept, "{}"]);
}

#[test]
fn an_input_that_vanishes_is_told_as_a_matter_of_the_environment() {
    let scene = Scene::new(&[("a", b"{}\n"), ("b", b"{}\n")]);
    let inputs = scene.inputs(&["a", "b"]);
    let reader = Reader::prepare(inputs.clone(), &InputProgress::fresh(&inputs), Position::default(), LIMIT).unwrap();
    drop(scene);
    let reader = reader.start().unwrap();
    let said = reader.iter().find_map(|read| if let Read::Failed(failure) = read { Some(failure) } else { None });
    let said = said.expect("b is gone");
    assert!(said.to_string().contains("No such file"), "{said}");
    assert_eq!(said.exit(), Exit::Environment);
}

/// Files that nobody writes to are judged alike in every run; what is written later is judged by its own time.
#[test]
fn lines_of_a_file_arrive_when_it_was_last_written() {
    let scene = Scene::new(&[("a", b"{}\n")]);
    let one = scene.inputs(&["a"]).list[0].clone();
    let arrival = |began: i64| {
        let moments = Moments { began: WallTime(began), last: WallTime(i64::MAX) };
        Source::open(&one, moments, &ByteCount::default()).unwrap().arrival().0
    };
    let set = |path: &Path, ms: u64| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)).unwrap();
    };
    set(&scene.path("a"), 5_000);
    assert_eq!((arrival(9_000), arrival(4_000)), (9_000, 5_000));
    // Written in the year 2200: that says nothing, and lets no event in.
    set(&scene.path("a"), 7_258_118_400_000);
    assert_eq!(arrival(9_000), 9_000);
}

#[test]
fn ten_thousand_files_take_one_descriptor_at_a_time() {
    let scene = Scene::new(&[]);
    for idx in 0..10_000 {
        std::fs::write(scene.path(&format!("{idx:05}")), format!("{{\"n\":{idx}}}\n")).unwrap();
    }
    let inputs = Arc::new(Inputs::find(&[scene.dir.path().to_owned()]).unwrap());
    let reader = Reader::prepare(inputs.clone(), &InputProgress::fresh(&inputs), Position::default(), LIMIT).unwrap();
    let reader = reader.start().unwrap();
    let ours = scene.dir.path().canonicalize().unwrap();
    let mut lines = 0;
    for read in reader {
        if let Read::Chunk(chunk) = read {
            lines += chunk.ends.len();
            assert_eq!(chunk.ends, [chunk.batch.data.len() as u64], "offsets are those of the file");
            if lines % 1000 == 0 {
                let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
                let open =
                    open.filter_map(|entry| entry.path().read_link().ok()).filter(|path| path.starts_with(&ours));
                assert!(open.count() <= 4);
            }
        }
    }
    assert_eq!(lines, 10_000);
}
