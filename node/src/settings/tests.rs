use super::value::{Raw, show_bytes, show_time};
use super::*;

const SIZE: Kind = Kind::Bytes { min: 0, max: u64::MAX };
const TIME: Kind = Kind::Time { min: Duration::ZERO, max: Duration::MAX };

fn text(text: &str) -> Raw {
    Raw::Text(text.to_owned())
}

#[test]
fn sizes_and_times_have_units() {
    for (given, bytes) in [
        ("0", 0),
        ("1234", 1234),
        ("7B", 7),
        ("256KiB", 256 << 10),
        ("1 GiB", 1 << 30),
        (" 3mib ", 3 << 20),
        ("16777215TiB", 16_777_215 << 40),
    ] {
        assert_eq!(SIZE.read(&text(given)), Some(Value::Bytes(bytes)), "{given}");
        assert_eq!(SIZE.read(&text(&show_bytes(bytes))), Some(Value::Bytes(bytes)), "{given}");
    }
    for (given, millis) in
        [("250", 250), ("500ms", 500), ("5s", 5_000), ("10min", 600_000), ("2 h", 7_200_000), ("0s", 0)]
    {
        let time = Duration::from_millis(millis);
        assert_eq!(TIME.read(&text(given)), Some(Value::Time(time)), "{given}");
        assert_eq!(TIME.read(&text(&show_time(time))), Some(Value::Time(time)), "{given}");
    }
    assert_eq!(SIZE.read(&Raw::Integer(9)), Some(Value::Bytes(9)));
    assert_eq!(TIME.read(&Raw::Integer(9)), Some(Value::Time(Duration::from_millis(9))));
    let bad =
        ["", "GiB", "-1", "1.5GiB", "1KB", "1G", "5m", "1s", "18446744073709551616", "16777216TiB", "٣"];
    for given in bad {
        assert_eq!(SIZE.read(&text(given)), None, "{given}");
    }
    for given in ["", "ms", "-1s", "1.5s", "5m", "1KiB", "1 day", "18446744073709551615s"] {
        assert_eq!(TIME.read(&text(given)), None, "{given}");
    }
}

#[test]
fn values_are_shown_with_the_largest_unit_that_leaves_them_whole() {
    assert_eq!([0, 1, 1024, 65_000, 1 << 30].map(show_bytes), ["0B", "1B", "1KiB", "65000B", "1GiB"]);
    let shown = [0, 1_500, 60_000, 3_600_000].map(|millis| show_time(Duration::from_millis(millis)));
    assert_eq!(shown, ["0ms", "1500ms", "1min", "1h"]);
}

#[test]
fn a_file_that_holds_no_settings_is_refused_as_a_whole() {
    static NONE: Schema =
        Schema { subject: "test", prefix: "TEST_", owns_prefix: true, foreign: &[], settings: &[] };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let load = || {
        let sources = Sources { file: Some(path.clone()), ..Sources::default() };
        Settings::load(&NONE, &sources).expect_err("it is refused")
    };
    let error = load();
    assert!(matches!(error, SettingsError::Read { .. }), "{error}");
    std::fs::write(&path, b"\xff\xfe").unwrap();
    let error = load();
    assert!(matches!(error, SettingsError::Read { .. }), "{error}");
    std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    let error = load();
    assert!(matches!(error, SettingsError::TooLong { .. }), "{error}");
    std::fs::write(&path, "a = 1\nb = = 2\n").unwrap();
    let error = load();
    assert!(matches!(error, SettingsError::Form { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("node.toml") && message.contains("line 2"), "{message}");
}
