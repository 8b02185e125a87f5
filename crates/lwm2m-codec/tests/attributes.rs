//! Write-attributes: query parameters in and out, and what makes no sense together.

use std::time::Duration;

use lwm2m_codec::{AttributeError, Attributes};
use lwm2m_model::{ObjectPath, ValueType};

fn parse(query: &str) -> Result<Attributes, AttributeError> {
    Attributes::parse_query(query)
}

#[test]
fn attributes_are_read_from_a_query_and_written_to_one() {
    let attributes = parse("pmin=10&pmax=60&gt=50&lt=42.2&st=0.5&epmin=1&epmax=2").unwrap();
    assert_eq!(attributes.pmin, Some(Duration::from_secs(10)));
    assert_eq!(attributes.lt, Some(42.2));
    let queries = [
        "pmin=10", "pmax=60", "gt=50", "lt=42.2", "st=0.5", "epmin=1", "epmax=2",
    ];
    assert_eq!(attributes.to_queries(), queries);
    assert_eq!(Attributes::parse(queries), Ok(attributes));
    assert!(parse("").unwrap().is_empty());
    assert_eq!(parse("gt=-1.5e3").unwrap().to_queries(), ["gt=-1500"]);
}

#[test]
fn a_change_sets_and_unsets_and_leaves_the_rest() {
    let mut attributes = parse("pmin=10&pmax=60&gt=50").unwrap();
    attributes.apply(["pmin=5", "gt", "lt="]).unwrap();
    assert_eq!(attributes.to_queries(), ["pmin=5", "pmax=60"]);
    let before = attributes;
    assert!(attributes.apply(["pmin=1", "pmax=never"]).is_err());
    assert_eq!(attributes, before, "all or nothing");
    // A change is held against what is set already.
    let mut attributes = parse("gt=50").unwrap();
    assert_eq!(
        attributes.apply(["lt=50"]),
        Err(AttributeError::LtNotBelowGt { lt: 50.0, gt: 50.0 })
    );
}

#[test]
fn levels_inherit_from_above() {
    let object = parse("pmin=10&pmax=60").unwrap();
    let resource = parse("pmin=1&gt=5").unwrap();
    assert_eq!(
        resource.or(&object).to_queries(),
        ["pmin=1", "pmax=60", "gt=5"]
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let error = |query: &str| parse(query).unwrap_err().to_string();
    assert_eq!(
        error("pmi=1"),
        "\"pmi\" is no notification attribute: there are pmin, pmax, gt, lt, st, epmin and epmax"
    );
    assert_eq!(error("pmin=1&pmin=2"), "pmin stands twice: write it once");
    assert_eq!(
        error("pmin=-1"),
        "pmin=-1 is not a whole number of seconds from 0 to 4294967295"
    );
    assert_eq!(
        error("pmax=4294967296"),
        "pmax=4294967296 is not a whole number of seconds from 0 to 4294967295"
    );
    assert_eq!(error("gt=hot"), "gt=hot is not a decimal number");
    assert_eq!(error("lt=inf"), "lt=inf is not a decimal number");
    assert_eq!(error("st=0"), "st=0 is not positive: a step is");
    assert_eq!(error("lt=5&gt=4"), "lt=5 is not below gt=4");
    // TS 1.1 core, section 5.1.2: lt + 2 * st < gt.
    assert_eq!(
        error("lt=10&gt=20&st=5"),
        "lt=10, gt=20 and st=5 leave no room: lt + 2 * st must be below gt"
    );
    assert!(parse("lt=10&gt=20&st=4.9").is_ok());
    assert_eq!(error("epmin=5&epmax=5"), "epmin=5 is not below epmax=5");
}

#[test]
fn a_pmax_below_pmin_is_ignored() {
    let effective = |query: &str| parse(query).unwrap().effective_pmax().map(|d| d.as_secs());
    assert_eq!(effective("pmin=10&pmax=5"), None);
    assert_eq!(effective("pmin=10&pmax=10"), Some(10));
    assert_eq!(effective("pmax=0"), None);
    assert_eq!(effective("pmax=60"), Some(60));
}

#[test]
fn thresholds_are_for_numeric_resources() {
    let (value, name, instance) = (
        ObjectPath::Resource(3303, 0, 5700),
        ObjectPath::Resource(3, 0, 0),
        ObjectPath::Instance(3303, 0),
    );
    let threshold = parse("gt=30").unwrap();
    assert_eq!(threshold.check_for(&value, Some(ValueType::Float)), Ok(()));
    assert_eq!(threshold.check_for(&value, None), Ok(()));
    assert_eq!(
        threshold.check_for(&instance, None),
        Err(AttributeError::NotAResource { path: instance })
    );
    let value_type = ValueType::String;
    assert_eq!(
        threshold.check_for(&name, Some(value_type)),
        Err(AttributeError::NotNumeric {
            path: name,
            value_type
        })
    );
    let period = parse("pmin=1").unwrap();
    assert_eq!(period.check_for(&instance, None), Ok(()));
    assert_eq!(
        period.check_for(&ObjectPath::Root, None),
        Err(AttributeError::WholeDevice)
    );
}
