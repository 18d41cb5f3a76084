//! What `piculet append` appends: entries cut from a file or a pipe.

use super::Failure;
use super::entry::EntryIn;
use piculet_quorum::headers::Headers;
use piculet_quorum::limits::{BATCH_BYTES_TARGET, ENTRY_BYTES_MAX};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use tokio::sync::mpsc;

/// Pieces of the input that wait to be appended, each of about a batch.
const PIECES: usize = 16;
/// Longest line of JSON: any entry has room, however its bytes are escaped.
const JSON_LINE_BYTES_MAX: usize = 6 * ENTRY_BYTES_MAX + (1 << 20);

/// How the input is cut into entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Each line, with its newline, is one.
    Lines,
    /// So many bytes are one; the last may be shorter.
    Bytes(u32),
    /// Each line is a JSON object that describes one.
    Json,
}

/// Some entries of the input, and whether more follow.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) entries: Vec<EntryIn>,
    pub(super) end: Option<Result<(), String>>,
}

/// The input, cut into entries that each get the same headers before their own.
struct Input<R> {
    from: BufReader<R>,
    cut: Cut,
    headers: Headers,
    line: u64,
}

/// Reads the input, on a thread of its own: the file, or the standard input unless there is one.
/// A piece that has an end is the last.
pub(super) fn start(
    file: Option<&Path>,
    cut: Cut,
    headers: Headers,
) -> Result<mpsc::Receiver<Piece>, Failure> {
    let from: Box<dyn Read + Send> = match file {
        Some(path) => Box::new(
            std::fs::File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?,
        ),
        None => Box::new(std::io::stdin()),
    };
    let (send, receive) = mpsc::channel(PIECES);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut input = Input { from: BufReader::with_capacity(1 << 20, from), cut, headers, line: 0 };
        loop {
            let piece = input.gather();
            let last = piece.end.is_some();
            // It fails when the command has failed and takes no more.
            if send.blocking_send(piece).is_err() || last {
                return;
            }
        }
    })?;
    Ok(receive)
}

impl<R: Read> Input<R> {
    /// Reads about a batch's worth of entries, or fewer when the next would have to be waited for:
    /// what a slow producer has written goes on its way.
    fn gather(&mut self) -> Piece {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES_TARGET {
            match self.next() {
                Ok(Some(entry)) => {
                    bytes += entry.payload.len() + entry.headers.encoded().len();
                    entries.push(entry);
                }
                Ok(None) => return Piece { entries, end: Some(Ok(())) },
                Err(why) => return Piece { entries, end: Some(Err(why)) },
            }
            if !self.next_is_here() {
                break;
            }
        }
        Piece { entries, end: None }
    }

    fn next_is_here(&self) -> bool {
        match self.cut {
            Cut::Bytes(len) => self.from.buffer().len() >= len as usize,
            Cut::Lines | Cut::Json => self.from.buffer().contains(&b'\n'),
        }
    }

    fn next(&mut self) -> Result<Option<EntryIn>, String> {
        loop {
            let Some(bytes) = self.read()? else { return Ok(None) };
            let entry = match self.cut {
                Cut::Lines | Cut::Bytes(_) => EntryIn { payload: bytes, headers: self.headers.clone() },
                Cut::Json if bytes.trim_ascii().is_empty() => continue,
                Cut::Json => EntryIn::parse(&bytes, &self.headers)
                    .map_err(|error| format!("line {}: {error}", self.line))?,
            };
            let len = entry.payload.len() + entry.headers.encoded().len();
            if len > ENTRY_BYTES_MAX {
                let remedy = match self.cut {
                    Cut::Lines => "; use --record-bytes to cut the input into entries of a fixed size",
                    Cut::Bytes(_) | Cut::Json => "",
                };
                return Err(format!(
                    "line {} is longer, with its headers, than the {ENTRY_BYTES_MAX} bytes that an entry may have{remedy}",
                    self.line
                ));
            }
            return Ok(Some(entry));
        }
    }

    /// The bytes of the next entry, or of its description.
    fn read(&mut self) -> Result<Option<Vec<u8>>, String> {
        let limit = match self.cut {
            Cut::Lines => ENTRY_BYTES_MAX + 1,
            Cut::Bytes(len) => len as usize,
            Cut::Json => JSON_LINE_BYTES_MAX + 1,
        };
        let mut bytes = Vec::new();
        let mut limited = self.from.by_ref().take(limit as u64);
        let read = match self.cut {
            Cut::Bytes(_) => limited.read_to_end(&mut bytes),
            Cut::Lines | Cut::Json => limited.read_until(b'\n', &mut bytes),
        };
        self.line += 1;
        match read {
            Err(error) => Err(format!("cannot read the input: {error}")),
            Ok(0) => Ok(None),
            Ok(len) if self.cut == Cut::Json && len > JSON_LINE_BYTES_MAX => {
                Err(format!("line {} is longer than {JSON_LINE_BYTES_MAX} bytes", self.line))
            }
            Ok(_) => Ok(Some(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input<R: Read>(from: R, cut: Cut) -> Input<R> {
        Input { from: BufReader::new(from), cut, headers: Headers::default(), line: 0 }
    }

    fn all(from: &[u8], cut: Cut) -> (Vec<EntryIn>, Result<(), String>) {
        let (mut input, mut entries) = (input(from, cut), Vec::new());
        loop {
            let piece = input.gather();
            entries.extend(piece.entries);
            if let Some(end) = piece.end {
                return (entries, end);
            }
        }
    }

    fn payloads(from: &[u8], cut: Cut) -> Vec<Vec<u8>> {
        let (entries, end) = all(from, cut);
        end.expect("it reads");
        entries.into_iter().map(|entry| entry.payload).collect()
    }

    #[test]
    fn entries_put_together_are_the_input() {
        let from = b"one\n\nthree\r\nno newline at the end";
        assert_eq!(
            payloads(from, Cut::Lines),
            [&b"one\n"[..], b"\n", b"three\r\n", b"no newline at the end"]
        );
        assert_eq!(payloads(from, Cut::Bytes(10)).concat(), from);
        assert_eq!(payloads(from, Cut::Bytes(10)).len(), 4);
        assert!(payloads(b"", Cut::Lines).is_empty());
    }

    #[test]
    fn lines_of_json_are_entries_and_blank_lines_are_nothing() {
        let from = b"{\"payload\":\"one\"}\n\n  \n{\"payload_base64\":\"/w==\",\"headers\":{\"a\":\"b\"}}";
        let (entries, end) = all(from, Cut::Json);
        end.expect("it reads");
        assert_eq!(entries.len(), 2);
        assert_eq!((&*entries[0].payload, &*entries[1].payload), (&b"one"[..], &b"\xff"[..]));
        assert!(entries[0].headers.encoded().is_empty() && !entries[1].headers.encoded().is_empty());
    }

    #[test]
    fn a_wrong_line_is_named_and_what_is_before_it_counts() {
        let (entries, end) =
            all(b"{\"payload\":\"one\"}\n{\"payload\":2}\n{\"payload\":\"three\"}\n", Cut::Json);
        assert_eq!(entries.len(), 1);
        let why = end.expect_err("it is refused");
        assert!(why.starts_with("line 2: expected an object such as"), "{why}");
    }

    /// A pipe with something in it, whose producer takes its time.
    struct Slow(&'static [u8]);

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0.is_empty(), "it waits although there is something to append");
            self.0.read(buf)
        }
    }

    #[test]
    fn what_is_here_does_not_wait_for_what_is_not() {
        let lines = input(Slow(b"one\ntwo\nthr"), Cut::Lines).gather();
        assert!(lines.end.is_none());
        assert_eq!(lines.entries.iter().map(|e| &*e.payload).collect::<Vec<_>>(), [b"one\n", b"two\n"]);
        let records = input(Slow(b"onetwoth"), Cut::Bytes(3)).gather();
        assert_eq!(records.entries.iter().map(|e| &*e.payload).collect::<Vec<_>>(), [b"one", b"two"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let long = vec![b'x'; ENTRY_BYTES_MAX + 1];
        let why = all(&long, Cut::Lines).1.expect_err("it is refused");
        assert!(why.starts_with("line 1 is longer") && why.contains("--record-bytes"), "{why}");
        assert_eq!(payloads(&long[1..], Cut::Lines)[0].len(), ENTRY_BYTES_MAX);
        let mut headers = Headers::default();
        headers.push("a", b"b").expect("it fits");
        let with_headers = Input { headers, ..input(&long[1..], Cut::Lines) }.gather();
        assert!(with_headers.end.expect("it is the last").is_err());
    }
}
