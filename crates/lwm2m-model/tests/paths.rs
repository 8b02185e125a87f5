//! Paths as text, and as places in a tree.

use lwm2m_model::{ObjectPath, PathError};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn path(text: &str) -> ObjectPath {
    text.parse().expect("a path")
}

#[test]
fn a_path_is_read_with_and_without_slashes_and_written_with_a_leading_one() {
    assert_eq!(path("/"), ObjectPath::Root);
    assert_eq!(path("3"), ObjectPath::Object(3));
    assert_eq!(path("/3303/0"), ObjectPath::Instance(3303, 0));
    assert_eq!(path("/3303/0/"), ObjectPath::Instance(3303, 0));
    assert_eq!(path("3/0/9"), ObjectPath::Resource(3, 0, 9));
    assert_eq!(path("/3/0/7/1"), ObjectPath::ResourceInstance(3, 0, 7, 1));
    assert_eq!(path("3/0/9").to_string(), "/3/0/9");
    assert_eq!(ObjectPath::Root.to_string(), "/");
    assert_eq!(path("/65534"), ObjectPath::Object(65534));
}

#[test]
fn what_is_no_path_says_which_part_is_wrong() {
    let error = |text: &str| text.parse::<ObjectPath>().unwrap_err();
    assert_eq!(error(""), PathError::Empty);
    assert_eq!(error("//"), PathError::NotAnId { position: 1 });
    assert_eq!(error("/3//1"), PathError::NotAnId { position: 2 });
    assert_eq!(error("/3/+1"), PathError::NotAnId { position: 2 });
    assert_eq!(error("/3/0/x"), PathError::NotAnId { position: 3 });
    assert_eq!(
        error("/3/65535"),
        PathError::IdOutOfRange {
            position: 2,
            id: 65535
        }
    );
    assert_eq!(
        error("/99999999999999999999"),
        PathError::NotAnId { position: 1 }
    );
    assert_eq!(error("/1/2/3/4/5"), PathError::TooDeep);
    assert_eq!(
        error("/3/70000").to_string(),
        "part 2 of the path is 70000: ids go from 0 to 65534, 65535 is reserved"
    );
}

#[test]
fn a_path_contains_itself_and_what_lies_below() {
    assert!(path("/").contains(&path("/3/0/9")));
    assert!(path("/3").contains(&path("/3/0/9")));
    assert!(path("/3/0").contains(&path("/3/0")));
    assert!(!path("/3/0").contains(&path("/3")));
    assert!(!path("/3/0").contains(&path("/3/1/9")));
    assert!(!path("/3").contains(&path("/33/0")));
}

#[test]
fn paths_sort_as_the_tree_is_walked() {
    let mut paths: Vec<_> = ["/10", "/3/0/9", "/3/0/10", "/3", "/", "/3/0", "/3/0/7/1"]
        .map(path)
        .into();
    paths.sort();
    let text: Vec<_> = paths.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        ["/", "/3", "/3/0", "/3/0/7/1", "/3/0/9", "/3/0/10", "/10"]
    );
}

/// The same cases at every run.
fn seeded() -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(20_260_101),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn what_is_written_is_read_back(ids in prop::collection::vec(0..=65534u16, 0..=4)) {
        let path = ObjectPath::from_ids(&ids).unwrap();
        prop_assert_eq!(path.to_string().parse(), Ok(path));
        prop_assert_eq!(path.depth(), ids.len());
        if let Some(parent) = path.parent() {
            prop_assert!(parent.contains(&path) && parent < path);
            prop_assert_eq!(parent.child(ids[ids.len() - 1]), Some(path));
        }
    }

    #[test]
    fn any_text_is_a_path_or_an_error(text in "\\PC{0,40}") {
        lwm2m_model::fuzz::parse_path(text.as_bytes());
    }
}
