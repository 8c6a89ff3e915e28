//! Conditional calls as applications send them.

use super::{Branch, Conditional, Must, Outcome};
use crate::errors::Failure;
use crate::transactions::Writes;
use crate::validation;
use bytes::Bytes;
use rangedb_proto::v1::conditional_operation::Operation;
use rangedb_proto::v1::key_condition::Must as WireMust;
use rangedb_proto::v1::{
    ConditionalOperation, ConditionalRequest, ConditionalResponse, KeyCondition,
};
use rangedb_types::Timestamp;
use rangedb_types::limits::BATCH_GET_KEYS_MAX;

/// # Errors
/// `Invalid` with the field, `SystemKey`, `TooLarge`.
pub fn from_wire(request: ConditionalRequest) -> Result<Conditional, Failure> {
    let ConditionalRequest { conditions, then, otherwise } = request;
    let count = conditions.len() + then.len() + otherwise.len();
    if count > BATCH_GET_KEYS_MAX {
        let words =
            format!("{count} conditions and operations; at most {BATCH_GET_KEYS_MAX} a call");
        return Err(Failure::invalid("conditions", words));
    }
    if conditions.is_empty() {
        let words = "there is no condition; write with Put or Batch instead";
        return Err(Failure::invalid("conditions", words));
    }
    Ok(Conditional {
        conditions: conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
        then: branch("then", then)?,
        otherwise: branch("otherwise", otherwise)?,
    })
}

fn condition(condition: KeyCondition) -> Result<(Bytes, Must), Failure> {
    validation::key("conditions.key", &condition.key)?;
    let must = match condition.must {
        Some(WireMust::VersionIs(0)) => {
            let words = "no value has version 0; use `absent` for a key that must not exist";
            return Err(Failure::invalid("conditions.version_is", words));
        }
        Some(WireMust::VersionIs(version)) => Must::VersionIs(Timestamp(version)),
        Some(WireMust::ValueIs(value)) => Must::ValueIs(value),
        Some(WireMust::Absent(_)) => Must::Absent,
        Some(WireMust::Present(_)) => Must::Present,
        None => {
            let words = "a condition must say what must hold";
            return Err(Failure::invalid("conditions.must", words));
        }
    };
    Ok((condition.key, must))
}

fn branch(field: &'static str, operations: Vec<ConditionalOperation>) -> Result<Branch, Failure> {
    let (mut gets, mut writes) = (Vec::new(), Writes::default());
    for operation in operations {
        match operation.operation {
            Some(Operation::Write(write)) => writes.add(write)?,
            Some(Operation::Get(key)) => {
                validation::key(field, &key)?;
                gets.push(key);
            }
            None => return Err(Failure::invalid(field, "an operation is a write or a get")),
        }
    }
    Ok(Branch { gets, writes: writes.in_order()? })
}

#[must_use]
pub fn to_wire(outcome: Outcome) -> ConditionalResponse {
    let Outcome { held, version, current, values } = outcome;
    ConditionalResponse { held, version: version.0, current, values }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rangedb_proto::v1::transaction_write::{Delete, Want};
    use rangedb_proto::v1::{TransactionWrite, key_condition};
    use tonic::Code;

    fn when(key: &'static str, must: Option<WireMust>) -> KeyCondition {
        KeyCondition { key: key.into(), must }
    }

    fn delete(key: &'static str) -> ConditionalOperation {
        let write = TransactionWrite { key: key.into(), want: Some(Want::Delete(Delete {})) };
        ConditionalOperation { operation: Some(Operation::Write(write)) }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_field() {
        let absent = || Some(WireMust::Absent(key_condition::Absent {}));
        let request = |conditions, then| ConditionalRequest { conditions, then, otherwise: vec![] };
        let nothing = ConditionalOperation { operation: None };
        let table = [
            (request(vec![], vec![]), "conditions"),
            (request(vec![when("", absent())], vec![]), "conditions.key"),
            (request(vec![when("a", None)], vec![]), "conditions.must"),
            (
                request(vec![when("a", Some(WireMust::VersionIs(0)))], vec![]),
                "conditions.version_is",
            ),
            (request(vec![when("a", absent())], vec![nothing]), "then"),
            (request(vec![when("a", absent())], vec![delete("b"), delete("b")]), "writes.key"),
            (request(vec![when("a", absent()); 10_001], vec![]), "conditions"),
        ];
        for (request, named) in table {
            let failure = from_wire(request).unwrap_err();
            assert_eq!(failure.code(), Code::InvalidArgument, "{failure}");
            let Failure::Invalid { field, .. } = failure else { panic!("{failure}") };
            assert_eq!(field, named);
        }
        let system = from_wire(request(vec![when("_/x", absent())], vec![])).unwrap_err();
        assert_eq!(system.code(), Code::PermissionDenied);
    }
}
