//! How records are spelt in etcd and sqlite: as the JSON of the value alone. The kind of the key tells the
//! kind of the record.

use piculet_quorum::meta::{Key, Record};

/// A record as JSON.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let json = match record {
        Record::Cluster(record) => serde_json::to_vec(record),
        Record::Incarnation(record) => serde_json::to_vec(record),
        Record::Node(record) => serde_json::to_vec(record),
        Record::Name(record) => serde_json::to_vec(record),
        Record::Log(record) => serde_json::to_vec(record),
        Record::Config(record) => serde_json::to_vec(record),
        Record::Trim(record) => serde_json::to_vec(record),
        Record::First(record) => serde_json::to_vec(record),
        Record::Segment(record) => serde_json::to_vec(record),
        Record::Part(record) => serde_json::to_vec(record),
        Record::Flush(record) => serde_json::to_vec(record),
    };
    json.expect("records hold numbers, text and lists alone, which JSON can express")
}

/// The record under `key`, from JSON. Fields that this version does not know are ignored.
pub(crate) fn decode(key: &Key, json: &[u8]) -> Result<Record, serde_json::Error> {
    Ok(match key {
        Key::Cluster => Record::Cluster(serde_json::from_slice(json)?),
        Key::Incarnation(..) => Record::Incarnation(serde_json::from_slice(json)?),
        Key::Node(_) => Record::Node(serde_json::from_slice(json)?),
        Key::Name(_) => Record::Name(serde_json::from_slice(json)?),
        Key::Log(_) => Record::Log(serde_json::from_slice(json)?),
        Key::Config(_) => Record::Config(serde_json::from_slice(json)?),
        Key::Trim(_) => Record::Trim(serde_json::from_slice(json)?),
        Key::First(_) => Record::First(serde_json::from_slice(json)?),
        Key::Segment(..) => Record::Segment(serde_json::from_slice(json)?),
        Key::Part(..) => Record::Part(serde_json::from_slice(json)?),
        Key::Flush(..) => Record::Flush(serde_json::from_slice(json)?),
    })
}

/// Whether a record of this kind is kept under `key`.
pub(crate) fn belongs(key: &Key, record: &Record) -> bool {
    matches!(
        (key, record),
        (Key::Cluster, Record::Cluster(_))
            | (Key::Incarnation(..), Record::Incarnation(_))
            | (Key::Node(_), Record::Node(_))
            | (Key::Name(_), Record::Name(_))
            | (Key::Log(_), Record::Log(_))
            | (Key::Config(_), Record::Config(_))
            | (Key::Trim(_), Record::Trim(_))
            | (Key::First(_), Record::First(_))
            | (Key::Segment(..), Record::Segment(_))
            | (Key::Part(..), Record::Part(_))
            | (Key::Flush(..), Record::Flush(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_quorum::ids::{
        Chain, Epoch, Incarnation, Index, Level, LogId, LogName, NodeId, Nonce, Offset, SegmentNumber,
        Timestamp,
    };
    use piculet_quorum::meta::{
        ClusterRecord, ConfigRecord, FirstRecord, FlushRecord, IncarnationRecord, LogRecord, Member,
        NameRecord, NodeRecord, NodeState, PartRecord, Seal, SegmentEnd, SegmentRecord, SegmentState,
        TrimRecord,
    };

    const AT: SegmentEnd = SegmentEnd { end: Index(9), chain: Chain(3), last_timestamp: Timestamp(8) };
    const AT_JSON: &str = r#"{"end":9,"chain":"00000000000000000000000000000003","last_timestamp":8}"#;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn segment(state: SegmentState) -> (Key, Record) {
        let record = SegmentRecord {
            epoch: Epoch(2),
            base: Offset(100),
            base_chain: Chain(1),
            base_timestamp: Timestamp(7),
            level: Level::Memory,
            ensemble: vec![Member { node: node("a"), incarnation: Incarnation(4) }],
            state,
            loss: None,
        };
        (Key::Segment(LogId(1), SegmentNumber(0)), Record::Segment(record))
    }

    fn segment_json(state: &str) -> String {
        format!(
            r#"{{"epoch":2,"base":100,"base_chain":"00000000000000000000000000000001","base_timestamp":7,"level":"memory","ensemble":[{{"node":"a","incarnation":4}}],"state":{state},"loss":null}}"#
        )
    }

    fn golden_segments() -> Vec<((Key, Record), String)> {
        let seal = Seal { at: AT, by_epoch: Epoch(3), holders: vec![node("a"), node("b")], settled: true };
        vec![
            (segment(SegmentState::Open), segment_json(r#""open""#)),
            (
                segment(SegmentState::Sealed(seal)),
                segment_json(&format!(
                    r#"{{"sealed":{{"at":{AT_JSON},"by_epoch":3,"holders":["a","b"],"settled":true}}}}"#
                )),
            ),
            (segment(SegmentState::Archived(AT)), segment_json(&format!(r#"{{"archived":{AT_JSON}}}"#))),
        ]
    }

    fn golden_others() -> Vec<((Key, Record), String)> {
        let (log, number) = (LogId(1), SegmentNumber(0));
        let member = Member { node: node("a"), incarnation: Incarnation(4) };
        let name = LogName::new("orders/eu").expect("a valid name");
        let log_record = LogRecord {
            name: name.clone(),
            epoch: Epoch(2),
            writer: Nonce(0xfe),
            holder: Some("process 7 on a".to_owned()),
            next_segment: SegmentNumber(5),
            next_base: Offset(u64::MAX),
            chain: Chain(1),
            last_timestamp: Timestamp(6),
            deleted: Some(Timestamp(8)),
        };
        let node_record = NodeRecord {
            incarnations: [(Level::Memory, Incarnation(4))].into(),
            addresses: vec!["10.0.0.1:7781".into(), "10.0.0.1:7782".into()],
            admin: "10.0.0.1:7780".into(),
            state: NodeState::Draining,
            version: "0.1.0".into(),
        };
        let simple = |key, record, json: &str| ((key, record), json.to_owned());
        vec![
            simple(
                Key::Cluster,
                Record::Cluster(ClusterRecord { cluster: Nonce(0xabc), format: 1 }),
                r#"{"cluster":"00000000000000000000000000000abc","format":1}"#,
            ),
            simple(
                Key::Incarnation(node("a"), Level::Memory),
                Record::Incarnation(IncarnationRecord { incarnation: Incarnation(4), nonce: Nonce(1) }),
                r#"{"incarnation":4,"nonce":"00000000000000000000000000000001"}"#,
            ),
            simple(
                Key::Node(node("a")),
                Record::Node(node_record),
                r#"{"incarnations":{"memory":4},"addresses":["10.0.0.1:7781","10.0.0.1:7782"],"admin":"10.0.0.1:7780","state":"draining","version":"0.1.0"}"#,
            ),
            simple(Key::Name(name), Record::Name(NameRecord { log }), r#"{"log":1}"#),
            simple(
                Key::Log(log),
                Record::Log(log_record),
                r#"{"name":"orders/eu","epoch":2,"writer":"000000000000000000000000000000fe","holder":"process 7 on a","next_segment":5,"next_base":18446744073709551615,"chain":"00000000000000000000000000000001","last_timestamp":6,"deleted":8}"#,
            ),
            simple(
                Key::Config(log),
                Record::Config(ConfigRecord { durability: Level::Memory, ..ConfigRecord::default() }),
                r#"{"durability":"memory","allow_loss":false,"producers":false}"#,
            ),
            simple(
                Key::Trim(log),
                Record::Trim(TrimRecord { trim_offset: Offset(12) }),
                r#"{"trim_offset":12}"#,
            ),
            simple(
                Key::First(log),
                Record::First(FirstRecord { first_segment: SegmentNumber(2) }),
                r#"{"first_segment":2}"#,
            ),
            simple(
                Key::Part(log, number, Index(0)),
                Record::Part(PartRecord { at: AT, bytes: 77, encoder: 1, skip: false }),
                &format!(r#"{{"at":{AT_JSON},"bytes":77,"encoder":1,"skip":false}}"#),
            ),
            simple(
                Key::Flush(log, number),
                Record::Flush(FlushRecord { uploader: member }),
                r#"{"uploader":{"node":"a","incarnation":4}}"#,
            ),
        ]
    }

    fn golden() -> Vec<((Key, Record), String)> {
        [golden_others(), golden_segments()].concat()
    }

    #[test]
    fn the_json_of_every_record_is_fixed() {
        for ((key, record), json) in golden() {
            assert_eq!(String::from_utf8(encode(&record)).expect("JSON is text"), json);
            assert_eq!(decode(&key, json.as_bytes()).expect("it is a record"), record);
            assert!(belongs(&key, &record), "{key:?}");
        }
    }

    #[test]
    fn a_record_belongs_to_its_own_kind_of_key_alone() {
        for ((key, _), _) in golden() {
            for ((other, record), _) in golden() {
                let same = std::mem::discriminant(&key) == std::mem::discriminant(&other);
                assert_eq!(belongs(&key, &record), same, "{key:?} {record:?}");
            }
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        for ((key, _), json) in golden() {
            assert!(decode(&key, &json.as_bytes()[..json.len() - 1]).is_err(), "{json} cut short");
            assert!(decode(&key, b"{}").is_err(), "{key:?} without a field");
        }
    }
}
