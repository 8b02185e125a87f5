//! Reads the built-in table, whose first lines say what its columns are.

use std::collections::BTreeMap;

use crate::{ObjectModel, ResourceModel, ValueType};

const TABLE: &str = include_str!("../../../schemas/oma/objects.tsv");

pub(crate) fn built_in() -> Vec<ObjectModel> {
    read(TABLE).expect("the table is part of the program, and a test reads all of it")
}

/// The error is the number of the line that could not be read.
fn read(table: &str) -> Result<Vec<ObjectModel>, usize> {
    let mut objects: Vec<ObjectModel> = Vec::new();
    for (index, line) in table.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let read = match line.strip_prefix('\t') {
            None => object(line).map(|object| objects.push(object)),
            Some(line) => objects
                .last_mut()
                .zip(resource(line))
                .and_then(|(object, resource)| {
                    let twice = object.resources.insert(resource.id, resource).is_some();
                    (!twice).then_some(())
                }),
        };
        read.ok_or(index + 1)?;
    }
    Ok(objects)
}

fn object(line: &str) -> Option<ObjectModel> {
    let mut columns = line.split('\t');
    let id = columns.next()?.parse().ok()?;
    let version = columns.next()?.to_owned();
    let lwm2m_version = columns.next()?.to_owned();
    let (multiple, mandatory) = flags(columns.next()?)?;
    let name = columns.next()?.to_owned();
    let resources = BTreeMap::new();
    Some(ObjectModel {
        id,
        version,
        lwm2m_version,
        name,
        multiple,
        mandatory,
        resources,
        description: None,
    })
}

fn resource(line: &str) -> Option<ResourceModel> {
    let mut columns = line.split('\t');
    let id = columns.next()?.parse().ok()?;
    let operations = match columns.next()? {
        "-" => crate::Operations::NONE,
        letters => letters.parse().ok()?,
    };
    let (multiple, mandatory) = flags(columns.next()?)?;
    let value_type = match columns.next()? {
        "-" => None,
        "Unsigned" => Some(ValueType::Unsigned),
        name => Some(ValueType::from_oma_name(name)?),
    };
    let name = columns.next()?.to_owned();
    let range = columns.next().unwrap_or_default().to_owned();
    let units = columns.next().unwrap_or_default().to_owned();
    Some(ResourceModel {
        id,
        name,
        operations,
        multiple,
        mandatory,
        value_type,
        range,
        units,
        description: None,
    })
}

/// Whether multiple, whether mandatory.
fn flags(text: &str) -> Option<(bool, bool)> {
    Some(match text {
        "SO" => (false, false),
        "SM" => (false, true),
        "MO" => (true, false),
        "MM" => (true, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_an_object_or_one_of_its_resources() {
        let objects = read(TABLE).unwrap();
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(
            objects.iter().map(|o| 1 + o.resources.len()).sum::<usize>(),
            lines
        );
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        assert_eq!(
            read("3\t1.0\t1.0\tSM\tDevice\n\t0\tR\tSO\tNumber\tManufacturer\n"),
            Err(2)
        );
        assert_eq!(read("\t0\tR\tSO\tString\tManufacturer\n"), Err(1));
    }
}
