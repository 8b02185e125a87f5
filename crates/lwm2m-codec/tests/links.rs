//! Links: RFC 6690's examples, and registrations as Leshan, Zephyr and Wakaama send them.

use lwm2m_codec::{
    Link, LinkError, MAX_LINK_ATTRIBUTES, MAX_LINKS, format_links, parse_links, root_path,
};
use lwm2m_model::ObjectPath;

fn links(text: &str) -> Vec<Link> {
    parse_links(text.as_bytes()).expect("links")
}

/// Read as this, and written again as it was.
fn is(text: &str, expected: &[Link]) {
    assert_eq!(links(text), expected);
    assert_eq!(format_links(expected), text);
}

#[test]
fn the_examples_of_rfc_6690_section_5() {
    is(
        r#"</sensors/temp>;if="sensor",</sensors/light>;if="sensor""#,
        &[
            Link::new("/sensors/temp").with("if", "sensor"),
            Link::new("/sensors/light").with("if", "sensor"),
        ],
    );
    is(
        r#"</sensors>;ct=40;title="Sensor Index",</t>;anchor="/sensors/temp";rel="alternate""#,
        &[
            Link::new("/sensors")
                .with("ct", "40")
                .with("title", "Sensor Index"),
            Link::new("/t")
                .with("anchor", "/sensors/temp")
                .with("rel", "alternate"),
        ],
    );
    // The RFC has the URL of the next one in quotes too, and `sz` bare.
    assert_eq!(
        links(
            r#"<http://www.example.com/sensors/t123>;anchor="/sensors/temp";rel=describedby,</firmware/v2.1>;rt="firmware";sz=262144"#
        ),
        [
            Link::new("http://www.example.com/sensors/t123")
                .with("anchor", "/sensors/temp")
                .with("rel", "describedby"),
            Link::new("/firmware/v2.1")
                .with("rt", "firmware")
                .with("sz", "262144"),
        ]
    );
    assert_eq!(
        links(r#"</sensors/light>;rt="light-lux core.sen-light";if="sensor";obs"#)[0].attributes[2],
        ("obs".to_owned(), None)
    );
}

#[test]
fn commas_semicolons_and_escapes_within_quotes() {
    is(
        r#"</a>;title="a, b; <c> \"d\" \\ é",</b>"#,
        &[
            Link::new("/a").with("title", r#"a, b; <c> "d" \ é"#),
            Link::new("/b"),
        ],
    );
}

#[test]
fn a_registration_of_leshan() {
    let text = r#"</>;rt="oma.lwm2m";ct="60 110 112 11542 11543",</1/0>,</3>;ver=1.2,</3/0>,</6/0>,</3303>;ver=1.1,</3303/0>,</3303/1>"#;
    let links = links(text);
    assert_eq!(links.len(), 8);
    assert_eq!(links[0].attribute("ct"), Some("60 110 112 11542 11543"));
    assert_eq!(
        (links[2].url.as_str(), links[2].attribute("ver")),
        ("/3", Some("1.2"))
    );
    assert_eq!(root_path(&links), "/");
    assert_eq!(
        links[7].object_path("/"),
        Some(ObjectPath::Instance(3303, 1))
    );
    assert_eq!(links[0].object_path("/"), Some(ObjectPath::Root));
    assert_eq!(format_links(&links), text);
}

#[test]
fn registrations_of_zephyr_and_wakaama() {
    let zephyr = links(r#"</>;rt="oma.lwm2m";ct=110,</1/0>,</3/0>;ver="1.2",</5>;ver=1.0"#);
    assert_eq!(
        (zephyr[0].attribute("ct"), zephyr[2].attribute("ver")),
        (Some("110"), Some("1.2"))
    );
    let wakaama =
        links(r#"</lwm2m>;rt="oma.lwm2m";ct=11543, </lwm2m/1/0>, </lwm2m/3/0>,</lwm2m/31024/10>,"#);
    assert_eq!(root_path(&wakaama), "/lwm2m");
    assert_eq!(
        wakaama[3].object_path("/lwm2m"),
        Some(ObjectPath::Instance(31024, 10))
    );
    assert_eq!(Link::new("/lwm2mx/1/0").object_path("/lwm2m"), None);
    assert_eq!(Link::new("/well-known").object_path("/"), None);
    assert_eq!(root_path(&[Link::new("/1/0")]), "/");
}

#[test]
fn a_discover_with_attributes() {
    let text = "</3/0>;pmin=10,</3/0/7>;dim=8;pmin=10;pmax=60;gt=50;lt=42.2,</3/0/8>";
    let links = links(text);
    assert_eq!(links[1].attribute("lt"), Some("42.2"));
    assert_eq!(format_links(&links), text);
}

#[test]
fn nothing_and_almost_nothing() {
    for empty in ["", "  ", ",", " , "] {
        assert_eq!(links(empty), []);
    }
    assert_eq!(links("<>"), [Link::new("")]);
}

#[test]
fn what_is_no_link_is_named_by_its_place() {
    let error = |text: &str| parse_links(text.as_bytes()).unwrap_err();
    let expected = |offset, expected| LinkError::Expected { offset, expected };
    assert_eq!(error("/1/0"), expected(0, "< and a URL"));
    assert_eq!(error("</1/0"), expected(5, "> after the URL"));
    assert_eq!(error("</1/0<"), expected(5, "> after the URL"));
    assert_eq!(error("</1/0>,x"), expected(7, "< and a URL"));
    assert_eq!(
        error("</1/0> </2/0>"),
        expected(7, "a comma, or a semicolon and an attribute")
    );
    assert_eq!(error("</1/0>;"), expected(7, "an attribute's name"));
    assert_eq!(error("</1/0>;=1"), expected(7, "an attribute's name"));
    assert_eq!(error("</1/0>;ver="), expected(11, "the attribute's value"));
    assert_eq!(
        error("</1/0>;rt=\"oma"),
        expected(14, "the closing quote of a value")
    );
    assert_eq!(
        error("</1/0>;rt=\"oma\\"),
        expected(15, "the closing quote of a value")
    );
    assert_eq!(
        parse_links(b"</1\xff>"),
        Err(LinkError::NotUtf8 { offset: 3 })
    );
}

#[test]
fn floods_end_in_errors() {
    let many = "<>,".repeat(MAX_LINKS);
    assert_eq!(links(&many).len(), MAX_LINKS);
    assert!(matches!(
        parse_links((many + "<>").as_bytes()),
        Err(LinkError::TooManyLinks { .. })
    ));
    let attributes = format!("<>{}", ";a".repeat(MAX_LINK_ATTRIBUTES));
    assert_eq!(links(&attributes)[0].attributes.len(), MAX_LINK_ATTRIBUTES);
    assert!(matches!(
        parse_links((attributes + ";a").as_bytes()),
        Err(LinkError::TooManyAttributes { .. })
    ));
}

#[test]
fn what_cannot_stand_in_a_link_is_left_out() {
    let mut link = Link::new("/a>;x=1,<b");
    link.attributes
        .push(("na me=\"".to_owned(), Some("1".to_owned())));
    link.attributes.push((" ".to_owned(), Some("1".to_owned())));
    let text = format_links(&[link]);
    assert_eq!(text, "</a;x=1,b>;name=1");
    assert_eq!(links(&text).len(), 1);
}
