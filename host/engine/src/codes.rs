//! Every code that the host gives, once: classes and codes of dead letters, codes of halts. README has a row for each.
//!
//! They are stored, counted and alerted on, so a name never changes and never gets another meaning.

macro_rules! codes {
    ($(#[$doc:meta])* $type:ident { $($(#[$member:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$member])* $name,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &'static [$type] = &[$($type::$name,)*];

            /// As it is stored and shown.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$name => $text,)*
                }
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes! {
    /// What kind of fault has made a dead letter.
    Class {
        /// The event cannot be read.
        Decode = "decode",
        /// The module refuses it; the code is the module's.
        Reject = "reject",
        Trap = "trap",
        Limit = "limit",
        /// The module's answer is wrong.
        Contract = "contract",
        /// Input that was gone before it could be read.
        Gap = "gap",
    }
}

codes! {
    /// Why an event, a window or a timer is a dead letter, where it is the host that says so.
    Code {
        PayloadSize = "payload-size",
        JsonUtf8 = "json-utf8",
        JsonSyntax = "json-syntax",
        JsonDepth = "json-depth",
        JsonNumber = "json-number",
        JsonDuplicate = "json-duplicate",
        JsonNotObject = "json-not-object",
        KeyMissing = "key-missing",
        KeyType = "key-type",
        /// The last token of the subject is not the key.
        KeyPartition = "key-partition",
        IdMissing = "id-missing",
        IdType = "id-type",
        TimeMissing = "time-missing",
        TimeType = "time-type",
        TimeInFuture = "time-in-future",
        TimeTooOld = "time-too-old",
        TimeRange = "time-range",
        FieldMissing = "field-missing",
        FieldType = "field-type",
        /// Headers that no client can read.
        Header = "header",
        Trap = "trap",
        LimitFuel = "limit-fuel",
        /// Of a module: memory, reply, state.
        Limit = "limit",
        StateSize = "state-size",
        RecordSize = "record-size",
        TooManyRecords = "too-many-records",
        ContractViolation = "contract-violation",
        Gap = "gap",
    }
}

impl Code {
    /// The class that it is of.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Code::PayloadSize
            | Code::JsonUtf8
            | Code::JsonSyntax
            | Code::JsonDepth
            | Code::JsonNumber
            | Code::JsonDuplicate
            | Code::JsonNotObject
            | Code::KeyMissing
            | Code::KeyType
            | Code::KeyPartition
            | Code::IdMissing
            | Code::IdType
            | Code::TimeMissing
            | Code::TimeType
            | Code::TimeInFuture
            | Code::TimeTooOld
            | Code::TimeRange
            | Code::FieldMissing
            | Code::FieldType
            | Code::Header => Class::Decode,
            Code::Trap => Class::Trap,
            Code::LimitFuel | Code::Limit | Code::StateSize | Code::RecordSize | Code::TooManyRecords => Class::Limit,
            Code::ContractViolation => Class::Contract,
            Code::Gap => Class::Gap,
        }
    }
}

codes! {
    /// Why a partition stands still until somebody decides.
    HaltCode {
        InputGap = "input-gap",
        InputRecreated = "input-recreated",
        InputRolledBack = "input-rolled-back",
        StreamMissing = "stream-missing",
        PipelineStreamRecreated = "pipeline-stream-recreated",
        MarkersMissing = "markers-missing",
        PipelineStreamFormat = "pipeline-stream-format",
        BatchRefused = "batch-refused",
        EpochChainBroken = "epoch-chain-broken",
        PipelineStreamDamaged = "pipeline-stream-damaged",
        StateIncompatible = "state-incompatible",
        StateLimit = "state-limit",
        ModuleHalt = "module-halt",
        TotalsMismatch = "totals-mismatch",
        StoreFormat = "store-format",
        StoreInUse = "store-in-use",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of README's table under this head: what stands in its first column.
    fn rows(readme: &str, head: &str) -> Vec<(String, String)> {
        let table = readme.split(head).nth(1).expect("README has the table").lines();
        let rows = table.skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with("| "));
        rows.map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            (cells[0].trim_matches(|c| "| `".contains(c)).to_owned(), cells[1].to_owned())
        })
        .collect()
    }

    fn readme() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).expect("README is there")
    }

    #[test]
    fn readme_has_a_row_for_each_halt() {
        let mut told: Vec<String> =
            rows(&readme(), "| code | what happened | what to do |").into_iter().map(|(code, _)| code).collect();
        let mut known: Vec<String> = HaltCode::ALL.iter().map(ToString::to_string).collect();
        told.sort();
        known.sort();
        assert_eq!(told, known);
    }

    #[test]
    fn readme_names_each_code_of_a_dead_letter_in_its_class() {
        let told = rows(&readme(), "| class | codes |");
        let classes: Vec<&str> = told.iter().map(|(class, _)| class.as_str()).collect();
        assert_eq!(classes, Class::ALL.iter().map(|class| class.name()).collect::<Vec<_>>());
        for code in Code::ALL {
            let named: Vec<&str> = told
                .iter()
                .filter(|(_, codes)| codes.contains(&format!("`{code}`")))
                .map(|(class, _)| class.as_str())
                .collect();
            assert_eq!(named, [code.class().name()], "{code}");
        }
    }
}
