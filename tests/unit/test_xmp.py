"""XMP packets: what is not true of the upscaled picture goes, every other byte stays."""

from __future__ import annotations

import time

import pytest

from rt4ksr_client.formats import xmp

GOOGLE = "http://ns.google.com/photos/1.0/"

ULTRA_HDR = f"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 5.1.2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description
    xmlns:C="{GOOGLE}container/"
    xmlns:Item="{GOOGLE}container/item/"
    xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
    xmlns:GCamera="{GOOGLE}camera/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
    hdrgm:Version="1.0" GCamera:MotionPhoto="1"
    GCamera:MotionPhotoPresentationTimestampUs='968644'
    GCamera:Style="night" tiff:Orientation="6" tiff:Make="Somebody &gt; else">
   <C:Directory>
    <rdf:Seq>
     <rdf:li rdf:parseType="Resource">
      <C:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>
     <rdf:li rdf:parseType="Resource">
      <C:Item Item:Semantic="GainMap" Item:Length="66171"></C:Item></rdf:li>
    </rdf:Seq>
   </C:Directory>
   <dc:title><rdf:Alt>
    <rdf:li xml:lang="x-default">Ünter &lt;C:Directory&gt;</rdf:li></rdf:Alt></dc:title>
   <tiff:ImageWidth>4000</tiff:ImageWidth>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()


def test_gain_map_motion_photo_and_size_go_and_the_rest_stays() -> None:
    edited = xmp.of_upscaled(ULTRA_HDR)

    for gone in (b"hdrgm:", b"MotionPhoto", b"C:Item", b"C:Directory>\n", b"Orientation", b"4000"):
        assert gone not in edited, gone
    for kept in ("Ünter &lt;C:Directory&gt;", 'GCamera:Style="night"', "Somebody &gt; else"):
        assert kept.encode() in edited
    assert edited.startswith(b"<?xpacket begin") and edited.endswith(b'<?xpacket end="w"?>')


def test_a_packet_that_describes_nothing_else_is_not_touched() -> None:
    packet = b'<x:xmpmeta xmlns:dc="http://purl.org/dc/elements/1.1/" dc:title="hdrgm:Version"/>'

    assert xmp.of_upscaled(packet) is packet
    assert list(xmp.names_of_left_out(packet)) == []


def test_other_parts_of_the_file_are_named() -> None:
    assert list(xmp.names_of_left_out(ULTRA_HDR)) == ["HDR gain map", "video of a motion photo"]
    depth = f'<a xmlns:GDepth="{GOOGLE}depthmap/" GDepth:Mime="image/png"/>'.encode()
    assert list(xmp.names_of_left_out(depth)) == ["depth map"]
    still = ULTRA_HDR.replace(b'MotionPhoto="1"', b'MotionPhoto="0"')
    assert list(xmp.names_of_left_out(still)) == ["HDR gain map"]


@pytest.mark.parametrize("form", ['GPano:{}="{}"', "<GPano:{0}>{1}</GPano:{0}>"])
def test_a_panorama_says_its_new_size(form: str) -> None:
    def packet(factor: int) -> bytes:
        sizes = {
            "CroppedAreaImageWidthPixels": 4000,
            "CroppedAreaImageHeightPixels": 1000,
            "FullPanoWidthPixels": 8000,
            "FullPanoHeightPixels": 4000,
            "CroppedAreaLeftPixels": 10,
            "CroppedAreaTopPixels": 1500,
        }
        texts = [form.format(name, size * factor) for name, size in sizes.items()]
        return f'<a xmlns:GPano="{GOOGLE}panorama/">{" ".join(texts)} 4000</a>'.encode()

    assert xmp.scale_panorama(packet(1), 12_000) == packet(3)
    assert xmp.scale_panorama(ULTRA_HDR, 12_000) is ULTRA_HDR


@pytest.mark.parametrize(
    "filling",
    [
        b"<C:Directory ",
        b"<C:Directory>",
        b'<C:Directory a=">" >',
        b' C:Item="',
        b' C:Item="x" ',
        b'<z xmlns:p%d="http://ns.google.com/photos/1.0/container/" />',
        b" MotionPhoto   ",
    ],
    ids=repr,
)
def test_a_packet_made_to_be_slow_is_not(filling: bytes) -> None:
    namespace = f'<a xmlns:C="{GOOGLE}container/" {GOOGLE}panorama/ {GOOGLE}camera/>'.encode()
    many = filling * (2_000_000 // len(filling))
    if b"%d" in filling:
        many = b"".join(filling % index for index in range(30_000))

    start = time.process_time()
    xmp.of_upscaled(namespace + many)
    list(xmp.names_of_left_out(namespace + many))
    xmp.scale_panorama(namespace + many, 100)

    assert time.process_time() - start < 3
