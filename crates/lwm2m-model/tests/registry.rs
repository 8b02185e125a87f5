//! The object models: the built-in table, and DDF files added to it.

use lwm2m_model::{
    DdfError, MAX_DDF_BYTES, ObjectModel, ObjectPath, Operations, Registry, ResourceModel,
    ValueType,
};

fn resource(registry: &Registry, path: &str) -> ResourceModel {
    registry
        .resource(&path.parse().expect("a path"))
        .unwrap_or_else(|| panic!("{path} is not known"))
        .clone()
}

#[test]
fn the_core_objects_are_as_oma_defines_them() {
    let oma = Registry::oma();
    let known =
        |id: u16, version: &str, name: &str, multiple: bool, mandatory: bool, resources: usize| {
            let object = oma
                .object_version(id, version)
                .unwrap_or_else(|| panic!("{id} {version} is not known"));
            assert_eq!(
                (
                    object.name.as_str(),
                    object.multiple,
                    object.mandatory,
                    object.resources.len()
                ),
                (name, multiple, mandatory, resources),
                "object {id} version {version}"
            );
        };
    known(0, "1.0", "LWM2M Security", true, true, 13);
    known(0, "1.2", "LWM2M Security", true, true, 31);
    known(1, "1.0", "LwM2M Server", true, true, 9);
    known(3, "1.0", "Device", false, true, 23);
    known(3, "1.1", "Device", false, true, 23);
    known(3, "1.2", "Device", false, true, 23);
    known(4, "1.3", "Connectivity Monitoring", false, false, 14);
    known(6, "1.0", "Location", false, false, 7);
    known(7, "1.0", "Connectivity Statistics", false, false, 9);
    known(3303, "1.0", "Temperature", true, false, 7);
    known(3303, "1.1", "Temperature", true, false, 12);
    for id in [
        0, 1, 2, 3, 4, 5, 6, 7, 9, 19, 3300, 3301, 3303, 3304, 3306, 3311, 3313, 3315, 3323, 3342,
        3347, 10241,
    ] {
        assert!(oma.object(id).is_some(), "object {id}");
    }
    let ids: std::collections::BTreeSet<u16> = oma.objects().map(|o| o.id).collect();
    assert_eq!((ids.len(), oma.len()), (283, 348));
    assert!(oma.objects().all(|o| o.description.is_none()));
}

#[test]
fn resources_have_their_operations_types_ranges_and_units() {
    let oma = Registry::oma();
    let reboot = resource(&oma, "/3/0/4");
    assert_eq!(
        (reboot.name.as_str(), reboot.operations, reboot.value_type),
        ("Reboot", Operations::E, None)
    );
    let battery = resource(&oma, "/3/0/9");
    assert_eq!(
        (
            battery.value_type,
            battery.range.as_str(),
            battery.units.as_str()
        ),
        (Some(ValueType::Integer), "0..100", "/100")
    );
    let time = resource(&oma, "/3/0/13");
    assert_eq!(
        (time.value_type, time.operations),
        (Some(ValueType::Time), Operations::RW)
    );
    assert!(resource(&oma, "/3/0/7").multiple);
    assert!(resource(&oma, "/3/0/11").mandatory);
    let lifetime = resource(&oma, "/1/0/1");
    assert_eq!(
        (
            lifetime.name.as_str(),
            lifetime.operations,
            lifetime.units.as_str()
        ),
        ("Lifetime", Operations::RW, "s")
    );
    assert_eq!(resource(&oma, "/5/0/0").value_type, Some(ValueType::Opaque));
    assert_eq!(resource(&oma, "/5/0/2").operations.to_string(), "E");
    let value = resource(&oma, "/3303/1/5700");
    assert_eq!(
        (value.name.as_str(), value.value_type, value.operations),
        ("Sensor Value", Some(ValueType::Float), Operations::R)
    );
    // A resource instance has its resource's model; what is above a resource has none.
    assert_eq!(resource(&oma, "/3/0/7/1").id, 7);
    assert!(oma.resource(&ObjectPath::Instance(3, 0)).is_none());
    assert!(oma.resource(&ObjectPath::Resource(3, 0, 999)).is_none());
    // Security's secret key is for the bootstrap server only.
    assert_eq!(resource(&oma, "/0/0/5").operations, Operations::NONE);
}

#[test]
fn without_a_version_the_highest_counts() {
    let mut oma = Registry::oma();
    assert_eq!(oma.object(3303).map(|o| o.version.as_str()), Some("1.1"));
    let mut newer = oma.object(3303).unwrap().clone();
    for version in ["1.9", "1.10"] {
        newer.version = version.to_owned();
        oma.add(newer.clone());
    }
    assert_eq!(oma.object(3303).map(|o| o.version.as_str()), Some("1.10"));
    let versions: Vec<_> = oma.versions(3303).map(|o| o.version.as_str()).collect();
    assert_eq!(versions, ["1.0", "1.1", "1.9", "1.10"]);
    assert_eq!(
        Registry::oma().versions(3303).count(),
        2,
        "a clone is one's own"
    );
}

#[test]
fn a_device_that_names_its_versions_gets_their_models() {
    let oma = Registry::oma();
    // Object 21 changed its secret from a string to opaque with version 2.0.
    let kind = |registry: &Registry| resource(registry, "/21/0/0").value_type;
    assert_eq!(kind(&oma), Some(ValueType::Opaque));
    let device = oma.for_device([(21, "1.0"), (3303, "9.9")]);
    assert_eq!(kind(&device), Some(ValueType::String));
    assert_eq!(device.versions(21).count(), 1);
    assert_eq!(
        device.versions(3303).count(),
        2,
        "a version that is not known leaves those that are"
    );
    assert_eq!(device.object(3).map(|o| o.version.as_str()), Some("1.2"));
}

#[test]
fn urns_follow_from_id_and_version() {
    let oma = Registry::oma();
    let urn = |id, version| oma.object_version(id, version).map(ObjectModel::urn);
    assert_eq!(urn(3, "1.0").as_deref(), Some("urn:oma:lwm2m:oma:3"));
    assert_eq!(urn(3, "1.1").as_deref(), Some("urn:oma:lwm2m:oma:3:1.1"));
    assert_eq!(
        urn(3303, "1.1").as_deref(),
        Some("urn:oma:lwm2m:ext:3303:1.1")
    );
    assert_eq!(urn(10241, "1.0").as_deref(), Some("urn:oma:lwm2m:x:10241"));
}

const PUMP: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!-- a <Object> in a comment is none -->
<!DOCTYPE LWM2M>
<LWM2M xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">
  <Object ObjectType=\"MODefinition\">
    <Name> Pump
       &amp; Valve </Name>
    <Description1><![CDATA[Moves <water>.]]></Description1>
    <ObjectID> 33001 </ObjectID>
    <ObjectURN>urn:oma:lwm2m:x:33001</ObjectURN>
    <MultipleInstances>Multiple</MultipleInstances>
    <Vendor><Name>not the object's</Name></Vendor>
    <Resources>
      <Item ID=\"5850\"><Name>On/Off</Name><Operations>RW</Operations><Type>Boolean</Type>
        <Mandatory>Mandatory</Mandatory><MultipleInstances>Single</MultipleInstances></Item>
      <Item ID='1'><Name>Prime</Name><Operations>E</Operations><Type/></Item>
      <Item ID=\"2\">
        <Name>Flow&#x20;rates</Name><Operations>R</Operations><MultipleInstances>Multiple</MultipleInstances>
        <Type>Unsigned Integer</Type><RangeEnumeration>0..
          100</RangeEnumeration><Units>m3/s</Units><Description> of each outlet </Description>
      </Item>
      <Item ID=\"3\"><Name>Outlets</Name><Operations></Operations><Type>Corelnk</Type></Item>
    </Resources>
    <Description2></Description2>
  </Object>
  <Object><Name>Tank</Name><ObjectID>33002</ObjectID><ObjectVersion>2.1</ObjectVersion>
    <LWM2MVersion>1.1</LWM2MVersion><Mandatory>Mandatory</Mandatory><Resources/></Object>
</LWM2M>
";

#[test]
fn a_ddf_file_is_read_as_files_in_the_field_are() {
    let mut registry = Registry::oma();
    let added = registry.add_ddf(PUMP).unwrap();
    assert_eq!(added.len(), 2);

    let pump = registry.object(33001).unwrap();
    assert_eq!(pump, &added[0]);
    assert_eq!(
        (
            pump.name.as_str(),
            pump.version.as_str(),
            pump.lwm2m_version.as_str()
        ),
        ("Pump & Valve", "1.0", "1.0")
    );
    assert_eq!(pump.description.as_deref(), Some("Moves <water>."));
    assert!(pump.multiple && !pump.mandatory);
    assert_eq!(pump.resources.len(), 4);

    let on = resource(&registry, "/33001/0/5850");
    assert_eq!(
        (on.operations, on.value_type, on.mandatory, on.multiple),
        (Operations::RW, Some(ValueType::Boolean), true, false)
    );
    let prime = resource(&registry, "/33001/0/1");
    assert_eq!((prime.operations, prime.value_type), (Operations::E, None));
    let flow = resource(&registry, "/33001/0/2");
    assert_eq!(
        (flow.name.as_str(), flow.range.as_str(), flow.units.as_str()),
        ("Flow rates", "0.. 100", "m3/s")
    );
    assert_eq!(
        (flow.value_type, flow.multiple),
        (Some(ValueType::Unsigned), true)
    );
    assert_eq!(flow.description.as_deref(), Some("of each outlet"));
    let outlets = resource(&registry, "/33001/0/3");
    assert_eq!(
        (outlets.operations, outlets.value_type),
        (Operations::NONE, Some(ValueType::CoreLink))
    );

    let tank = registry.object(33002).unwrap();
    assert_eq!(
        (
            tank.version.as_str(),
            tank.lwm2m_version.as_str(),
            tank.mandatory
        ),
        ("2.1", "1.1", true)
    );
}

#[test]
fn a_file_replaces_the_built_in_object_of_its_version() {
    let mut registry = Registry::oma();
    let xml = "<Object><Name>My Location</Name><ObjectID>6</ObjectID><ObjectVersion>1.0</ObjectVersion></Object>";
    registry.add_ddf(xml).unwrap();
    assert_eq!(
        registry.object(6).map(|o| o.name.as_str()),
        Some("My Location")
    );
    assert_eq!(registry.versions(6).count(), 1);
}

#[test]
fn a_broken_file_is_named_by_line_and_element_and_adds_nothing() {
    let error = |xml: &str| {
        let mut registry = Registry::new();
        let error = registry.add_ddf(xml).unwrap_err();
        assert!(registry.is_empty());
        error
    };
    let text = |xml: &str| error(xml).to_string();
    assert_eq!(error(""), DdfError::NoObject);
    assert_eq!(error("hello"), DdfError::NoObject);
    assert_eq!(
        error(&" ".repeat(MAX_DDF_BYTES + 1)),
        DdfError::TooLarge {
            bytes: MAX_DDF_BYTES + 1
        }
    );
    assert_eq!(
        text("<Object>\n<Name>Pump</Name>\n</Object>"),
        "line 3: the object \"Pump\" that ends here has no ObjectID"
    );
    assert_eq!(
        text("<Object>\n<ObjectID>many</ObjectID></Object>"),
        "line 2: ObjectID is \"many\": an id is a whole number from 0 to 65534"
    );
    assert!(matches!(
        error("<Object><ObjectID>65535</ObjectID></Object>"),
        DdfError::BadValue { .. }
    ));
    assert!(matches!(
        error("<Object><ObjectID>1</ObjectID></Object>"),
        DdfError::Missing {
            missing: "Name",
            ..
        }
    ));
    let item = |inner: &str| {
        error(&format!(
            "<Object><Resources>\n{inner}</Resources></Object>"
        ))
    };
    assert!(matches!(
        item("<Item><Name>x</Name></Item>"),
        DdfError::Missing {
            line: 2,
            missing: "ID",
            ..
        }
    ));
    assert!(matches!(
        item("<Item ID='1'></Item>"),
        DdfError::Missing {
            missing: "Name",
            ..
        }
    ));
    assert!(matches!(
        item("<Item ID='1'><Type>Integr</Type></Item>"),
        DdfError::BadValue {
            line: 2,
            element: "Type",
            ..
        }
    ));
    assert!(matches!(
        item("<Item ID='1'><Operations>RX</Operations></Item>"),
        DdfError::BadValue {
            element: "Operations",
            ..
        }
    ));
    assert!(matches!(
        item("<Item ID='1'><Mandatory>Perhaps</Mandatory></Item>"),
        DdfError::BadValue {
            element: "Mandatory",
            ..
        }
    ));
    let twice = "<Object><Name>x</Name><ObjectID>9</ObjectID><Resources>\n<Item ID='1'><Name>a</Name></Item>\n<Item ID='1'><Name>b</Name></Item></Resources></Object>";
    assert_eq!(
        error(twice),
        DdfError::DuplicateResource {
            line: 3,
            object: 9,
            resource: 1
        }
    );
    assert!(matches!(
        error("<Object>\n<Name>cut"),
        DdfError::Xml { line: 2, .. }
    ));
    assert!(matches!(
        error("<Object>\n<Name></Object>"),
        DdfError::Xml { line: 2, .. }
    ));
}

#[test]
fn entities_of_the_file_are_never_expanded() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;\">]>
        <Object><Name>&b;</Name><ObjectID>1</ObjectID></Object>";
    let error = Registry::new().add_ddf(bomb).unwrap_err();
    assert!(matches!(error, DdfError::Xml { line: 2, .. }), "{error}");
}

#[test]
fn any_cut_and_any_deep_nesting_ends_well() {
    for end in 0..PUMP.len() {
        lwm2m_model::fuzz::decode_ddf(&PUMP.as_bytes()[..end]);
    }
    let deep = format!("<Object>{}", "<x>".repeat(100_000));
    lwm2m_model::fuzz::decode_ddf(deep.as_bytes());
    let many = format!(
        "<Object><Name>x</Name><ObjectID>1</ObjectID><Resources>{}",
        "<Item ID='1'><Name>a</Name></Item>".repeat(20_000)
    );
    assert!(matches!(
        Registry::new().add_ddf(&many),
        Err(DdfError::TooMany { .. })
    ));
}
