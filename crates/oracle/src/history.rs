//! A history of many keys, taken apart into registers.
//!
//! The Cache begins anew, empty, with each generation, so that a key has a register for each. An operation without an outcome
//! may belong to any generation but those that had been replaced when it was called: what a newer generation has answered
//! before, no older one may do later.

use std::{collections::BTreeMap, io::BufRead};

use crate::{
    fault::{Fault, Finding},
    operation::{Operation, Outcome, ReadError, Store},
    search,
};

/// What clients noted of a cluster whose stores were empty when it began.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

/// Which register: store, key, and generation of the Cache.
type Register<'a> = (Store, &'a str, Option<u64>);

impl History {
    /// Adds an operation. The order does not matter.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// All operations, in the order in which they were added.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Reads what [`Operation::write_line`] wrote. Fields that it did not write are passed over, so that a line may say more.
    ///
    /// # Errors
    /// When a line cannot be read or is no operation.
    pub fn read(from: impl BufRead) -> Result<Self, ReadError> {
        let operation = |(n, text): (usize, std::io::Result<String>)| {
            let line = n + 1;
            let text = text.map_err(|source| ReadError::Io { line, source })?;
            serde_json::from_str(&text).map_err(|source| ReadError::Json { line, source })
        };
        let operations = from.lines().enumerate().map(operation).collect::<Result<_, _>>()?;
        Ok(Self { operations })
    }

    /// Whether each key's history is linearizable, of the Cache's keys in each generation, and no older generation answered
    /// after a newer one.
    ///
    /// # Errors
    /// The first fault, in the order of stores, keys and generations.
    pub fn check(&self) -> Result<(), Fault> {
        self.check_generations()?;
        for ((store, key, generation), operations) in self.registers() {
            if let Err(finding) = search::check(&operations) {
                return Err(Fault { store, key: key.to_owned(), generation, finding });
            }
        }
        Ok(())
    }

    fn check_generations(&self) -> Result<(), Fault> {
        let replaced = Replaced::new(&self.operations);
        for operation in &self.operations {
            let Outcome::Known { generation, .. } = operation.outcome else { continue };
            let newest = replaced.newest_before(operation.called_ns);
            let boxed = || Box::new(operation.clone());
            let finding = match (operation.store, generation) {
                (Store::Values, None) => continue,
                (Store::Cache, Some(generation)) if generation >= newest => continue,
                (Store::Cache, Some(_)) => Finding::OlderGeneration { operation: boxed(), newest },
                (Store::Values, Some(_)) | (Store::Cache, None) => Finding::StrayGeneration { operation: boxed() },
            };
            return Err(Fault { store: operation.store, key: operation.key.clone(), generation, finding });
        }
        Ok(())
    }

    /// What was answered or may have been done, by register. Where a key of the Cache was never answered, nothing is to be
    /// explained.
    fn registers(&self) -> BTreeMap<Register<'_>, Vec<&Operation>> {
        let mut registers: BTreeMap<Register<'_>, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            if let Outcome::Known { generation, .. } = operation.outcome {
                registers.entry((operation.store, &operation.key, generation)).or_default().push(operation);
            }
        }
        let replaced = Replaced::new(&self.operations);
        for operation in self.operations.iter().filter(|it| it.outcome == Outcome::Unknown) {
            let oldest = match operation.store {
                Store::Values => None,
                Store::Cache => Some(replaced.newest_before(operation.called_ns)),
            };
            let of_key =
                (operation.store, operation.key.as_str(), oldest)..=(operation.store, &operation.key, Some(u64::MAX));
            registers.range_mut(of_key).for_each(|(_, register)| register.push(operation));
        }
        registers
    }
}

/// From when on which generation was known to have answered.
struct Replaced(Vec<(u64, u64)>);

impl Replaced {
    fn new(operations: &[Operation]) -> Self {
        let mut answers: Vec<(u64, u64)> = operations
            .iter()
            .filter_map(|operation| match operation.outcome {
                Outcome::Known { returned_ns, generation, .. } => Some((returned_ns, generation?)),
                Outcome::Unknown | Outcome::Refused => None,
            })
            .collect();
        answers.sort_unstable();
        let mut newest = 0;
        for (_, generation) in &mut answers {
            newest = newest.max(*generation);
            *generation = newest;
        }
        Self(answers)
    }

    /// The newest generation of which an answer had come before this moment; 0 when none had.
    fn newest_before(&self, moment_ns: u64) -> u64 {
        let before = self.0.partition_point(|(returned_ns, _)| *returned_ns < moment_ns);
        before.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
