//! The specification's own examples (TS 1.0.2, sections 6.4.3.1 and 6.4.3.2), byte for byte.

use lwm2m_codec::decode;
use lwm2m_model::{InstanceNode, Node, ObjectNode, Registry, ResourceNode, Value, ValueType};

use crate::{TLV, hex, integer, integers, is, path, read, text, write};

pub(crate) const DEVICE: &str = "
    C8 00 14 4F 70 65 6E 20 4D 6F 62 69 6C 65 20 41 6C 6C 69 61 6E 63 65
    C8 01 16 4C 69 67 68 74 77 65 69 67 68 74 20 4D 32 4D 20 43 6C 69 65 6E 74
    C8 02 09 33 34 35 30 30 30 31 32 33
    C3 03 31 2E 30
    86 06 41 00 01 41 01 05
    88 07 08 42 00 0E D8 42 01 13 88
    87 08 41 00 7D 42 01 03 84
    C1 09 64
    C1 0A 0F
    83 0B 41 00 00
    C4 0D 51 82 42 8F
    C6 0E 2B 30 32 3A 30 30
    C1 10 55";

fn device() -> InstanceNode {
    InstanceNode::new(
        0,
        [
            text(0, "Open Mobile Alliance"),
            text(1, "Lightweight M2M Client"),
            text(2, "345000123"),
            text(3, "1.0"),
            integers(6, &[(0, 1), (1, 5)]),
            integers(7, &[(0, 3800), (1, 5000)]),
            integers(8, &[(0, 125), (1, 900)]),
            integer(9, 100),
            integer(10, 15),
            integers(11, &[(0, 0)]),
            ResourceNode::single(13, Value::Time(1_367_491_215)),
            text(14, "+02:00"),
            text(16, "U"),
        ],
    )
}

#[test]
fn the_device_object_of_the_specification() {
    assert_eq!(hex(DEVICE).len(), 121, "the size the specification gives");
    is(DEVICE, "/3/0", Node::Instance(device()));
}

#[test]
fn the_same_wrapped_in_its_instance() {
    let wrapped = format!("08 00 79 {DEVICE}");
    is(&wrapped, "/3", Node::Object(ObjectNode::new(3, [device()])));
    // A device may answer a read of the instance so too.
    assert_eq!(read(&hex(&wrapped), "/3/0"), Ok(Node::Instance(device())));
    // And one that has only one instance may leave its wrapping out.
    assert_eq!(
        read(&hex(DEVICE), "/3"),
        Ok(Node::Object(ObjectNode::new(3, [device()])))
    );
}

#[test]
fn several_instances_as_in_the_access_control_example() {
    let rules = |instances: &[(u16, i64)]| integers(2, instances);
    is(
        "08 00 0E  C1 00 01  C1 01 00  83 02 41 7F 07  C1 03 7F
         08 02 12  C1 00 03  C1 01 00  87 02 41 7F 07 61 01 36 01  C1 03 7F",
        "/2",
        Node::Object(ObjectNode::new(
            2,
            [
                InstanceNode::new(
                    0,
                    [
                        integer(0, 1),
                        integer(1, 0),
                        rules(&[(127, 7)]),
                        integer(3, 127),
                    ],
                ),
                InstanceNode::new(
                    2,
                    [
                        integer(0, 3),
                        integer(1, 0),
                        rules(&[(127, 7), (310, 1)]),
                        integer(3, 127),
                    ],
                ),
            ],
        )),
    );
}

#[test]
fn the_server_object_example() {
    is(
        "08 00 0F  C1 00 01  C4 01 00 01 51 80  C1 06 01  C1 07 55",
        "/1",
        Node::Object(ObjectNode::new(
            1,
            [InstanceNode::new(
                0,
                [
                    integer(0, 1),
                    integer(1, 86400),
                    ResourceNode::single(6, Value::Boolean(true)),
                    text(7, "U"),
                ],
            )],
        )),
    );
}

/// The example's objects 65 and 66 are in no registry: a DDF brings them.
fn with_example_objects() -> Registry {
    let mut registry = Registry::new();
    registry
        .add_ddf(
            "<LWM2M><Object><Name>65</Name><ObjectID>65</ObjectID><Resources>
               <Item ID='0'><Name>Links</Name><MultipleInstances>Multiple</MultipleInstances><Type>Objlnk</Type></Item>
               <Item ID='1'><Name>Number</Name><Type>String</Type></Item>
               <Item ID='2'><Name>Stamp</Name><Type>Integer</Type></Item></Resources></Object>
             <Object><Name>66</Name><ObjectID>66</ObjectID><MultipleInstances>Multiple</MultipleInstances><Resources>
               <Item ID='0'><Name>Name</Name><Type>String</Type></Item>
               <Item ID='1'><Name>Access point</Name><Type>String</Type></Item>
               <Item ID='2'><Name>Link</Name><Type>Objlnk</Type></Item></Resources></Object></LWM2M>",
        )
        .expect("two objects");
    registry
}

#[test]
fn the_object_link_examples() {
    let registry = with_example_objects();
    let links = hex("88 00 0C 44 00 00 42 00 00 44 01 00 42 00 01
         C8 01 0D 38 36 31 33 38 30 30 37 35 35 35 30 30
         C4 02 12 34 56 78");
    let instance = Node::Instance(InstanceNode::new(
        0,
        [
            ResourceNode::multiple(
                0,
                ValueType::ObjectLink,
                [(0, Value::ObjectLink(66, 0)), (1, Value::ObjectLink(66, 1))],
            ),
            text(1, "8613800755500"),
            integer(2, 0x1234_5678),
        ],
    ));
    assert_eq!(
        decode(&links, &path("/65/0"), TLV, &registry).as_ref(),
        Ok(&instance)
    );
    assert_eq!(write(&instance, "/65/0"), Ok(links));

    let services = hex("08 00 26 C8 00 0B 6D 79 53 65 72 76 69 63 65 20 31
                  C8 01 0F 49 6E 74 65 72 6E 65 74 2E 31 35 2E 32 33 34
                  C4 02 00 43 00 00
         08 01 26 C8 00 0B 6D 79 53 65 72 76 69 63 65 20 32
                  C8 01 0F 49 6E 74 65 72 6E 65 74 2E 31 35 2E 32 33 35
                  C4 02 FF FF FF FF");
    let service = |id: u16, name: &str, access: &str, link: Value| {
        InstanceNode::new(
            id,
            [
                text(0, name),
                text(1, access),
                ResourceNode::single(2, link),
            ],
        )
    };
    let object = Node::Object(ObjectNode::new(
        66,
        [
            service(
                0,
                "myService 1",
                "Internet.15.234",
                Value::ObjectLink(67, 0),
            ),
            service(
                1,
                "myService 2",
                "Internet.15.235",
                Value::ObjectLink(65535, 65535),
            ),
        ],
    ));
    assert_eq!(
        decode(&services, &path("/66"), TLV, &registry).as_ref(),
        Ok(&object)
    );
    assert_eq!(write(&object, "/66"), Ok(services));
}
