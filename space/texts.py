"""Every sentence and label of the demo, by key: a language is one table. What a program calls (endpoints, their
parameters) is not translated, and what the package says in a sentence of its own comes as it is."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradio.context import LocalContext
from gradio.i18n import I18nData

ENGLISH = {
    "title": "# EmoRig\nChange the emotion of a face, keep the person.",
    "note": "For photos and clips of yourself or of people who agreed; never to deceive. They are processed on this "
    "machine only.",
    "duplicate": "Duplicate this Space",
    "drop": "# {what}\nDrop it here or click",
    "drop.file": "Drop here or click",
    "warning": "Please note",
    "info": "Note",
    "reset": "Reset to the photo",
    "undo": "Undo",
    "redo": "Redo",
    "go_on": "Go on from this",
    "stop": "Stop",
    "stopped": "Stopped.",
    "no_photo": "Upload a photo first.",
    "no_clip": "Upload or record a clip first.",
    "no_scan": "Upload a scan first.",
    "not_uploaded": "This is no photo that you uploaded: upload one first.",
    "not_fetched": "The file at this address could not be fetched: give a public http or https address of a photo or "
    "clip, or upload it.",
    # faces
    "faces": "Faces",
    "faces.which": "Which face? Or click it",
    "faces.largest": "Largest",
    "faces.all": "All",
    "faces.one": "Face {number}: {what}",
    # a sentence
    "prompt": "In words",
    "prompt.example": "a shy smile with wide eyes",
    "prompt.run": "Do it",
    "prompt.and": ", ",
    "prompt.unknown": "Not understood: {words}.",
    "prompt.first": "It is done as soon as there is a photo.",
    # emotions
    "emotion": "Emotion",
    "emotion.neutral": "Neutral",
    "emotion.happy": "Happy",
    "emotion.sad": "Sad",
    "emotion.surprise": "Surprise",
    "emotion.fear": "Fear",
    "emotion.disgust": "Disgust",
    "emotion.anger": "Anger",
    "emotion.contempt": "Contempt",
    "strength": "Strength",
    # the tab of photos
    "photo.tab": "Photo",
    "photo": "Photo",
    "photo.examples": "Or try one of these",
    "shape": "Keep the face's shape",
    "run": "Change the expression",
    "all": "All eight at once",
    "all.about": "Click the one to go with",
    "reference": "Reference",
    "reference.part": "Expression of another photo",
    "attributes": "Attributes",
    "attributes.which": "Which",
    "attributes.amount": "Amount (below 0: less of it)",
    "units": "Single movements (action units)",
    "units.about": "The sliders start at what the photo shows.",
    "units.one": "{movement} ({unit})",
    "units.AU1": "Inner brows up",
    "units.AU2": "Outer brows up",
    "units.AU4": "Brows down",
    "units.AU5": "Eyes wide",
    "units.AU6": "Cheeks up",
    "units.AU7": "Lids tight",
    "units.AU9": "Nose wrinkled",
    "units.AU10": "Upper lip up",
    "units.AU12": "Lip corners up",
    "units.AU15": "Lip corners down",
    "units.AU17": "Chin up",
    "units.AU20": "Lips stretched",
    "units.AU24": "Lips pressed",
    "units.AU26": "Jaw open",
    "units.AU43": "Eyes closed",
    "units.sides": "One side by itself (the person's)",
    "units.R2": "Right outer brow up",
    "units.L2": "Left outer brow up",
    "units.R43": "Right eye closed",
    "units.L43": "Left eye closed",
    "units.R12": "Right lip corner up",
    "units.L12": "Left lip corner up",
    "pose": "Head pose",
    "pose.yaw": "Yaw ° (to the person's left)",
    "pose.pitch": "Pitch ° (up)",
    "pose.roll": "Roll ° (to the right shoulder)",
    "gaze": "Gaze",
    "gaze.yaw": "Aside ° (to the person's left)",
    "gaze.pitch": "Up °",
    "gaze.camera": "Look at the camera",
    "light": "Light",
    "light.yaw": "From the side ° (the person's left)",
    "light.pitch": "From above °",
    "light.strength": "Hardness (0 even, 1 as in the photo)",
    "sampling": "Sampling",
    "sampling.seed": "Seed",
    "sampling.steps": "Steps",
    "result": "Result",
    "result.empty": "Give a photo and choose an emotion: the result appears here.",
    "result.download": "Download PNG",
    "looks": "What you made so far",
    "look.photo": "The photo",
    "look.then": ", then ",
    "look.reference": "Expression of {name}",
    "look.yaw": "Yaw",
    "look.pitch": "Pitch",
    "look.roll": "Roll",
    "look.gaze": "Eyes {yaw:+.0f}° {pitch:+.0f}°",
    "look.light": "Light {yaw:+.0f}° {pitch:+.0f}°",
    "look.light_strength": "Hardness of light {percent:.0f} %",
    "look.camera": "Eyes to the camera",
    "nothing_yet": "Choose an emotion or move a slider first.",
    "presets": "Presets",
    "presets.chosen": "Saved in this browser",
    "presets.name": "Name",
    "presets.save": "Save",
    "presets.link": "Link that opens the page with these settings",
    "presets.file": "Download as a file",
    "presets.load": "Load a file",
    "presets.loaded": "Preset “{name}”: give a photo, and it is applied.",
    "buffers": "Buffers",
    "buffers.result": "result",
    "buffers.normal": "normal",
    "buffers.albedo": "albedo",
    "buffers.rendered": "rendered",
    "buffers.repainted": "repainted",
    "buffers.photo": "photo",
    "buffers.reconstructed": "reconstructed",
    "buffers.edited": "edited",
    "buffers.replaced": "replaced",
    "head": "3-D head",
    "animation": "Animation",
    "animation.run": "Animate",
    "animation.seconds": "Seconds",
    "animation.loop": "And back again",
    "animation.download": "Download animation",
    # the tab of clips
    "clip.tab": "Video",
    "clip": "Clip",
    "clip.photo": "Move a photo by the clip",
    "clip.run": "Change the clip",
    "clip.before": "Before",
    "clip.after": "After",
    "clip.empty": "Give a clip and choose an emotion: the result appears here.",
    "clip.play": "Play both",
    "clip.download": "Download MP4",
    # the tab of scans
    "scan.tab": "3-D scan",
    "scan": "Scan (PLY, OBJ, GLB, NPZ)",
    "scan.about": "A mesh, or points with or without normals, in any unit and however it is turned; it takes half "
    "a minute, on busy machines some.",
    "scan.none": "No neural head is loaded: start the demo with `--head FOLDER`, where the folder is what `emorig "
    "convert nphm` or `train/train_nphm.py` wrote. Then a head is fitted here to a scan that you upload.",
    "scan.run": "Fit a head",
    "scan.looking": "Looking how the scan lies …",
    "scan.step": "Step {done} of {total} · {seconds:.0f} s left",
    "scan.drawing": "Looking for the head's surface …",
    "scan.done": "Fitted in {seconds:.0f} s: half of the scan lies within {misfit:.1f} mm of the head.",
    "scan.poor": "The scan lies far from its fit: what is no head fits badly, and what is part of one may be turned "
    "wrongly; `emorig head fit --landmarks` places it.",
    "scan.download": "Download GLB (on the scan)",
    "scan.codes": "Download codes",
    # the tab of many photos
    "batch.tab": "Many photos",
    "batch.photos": "Photos",
    "batch.prompt": "Or in words",
    "batch.preset": "Or a preset",
    "batch.face": "Which face of each photo?",
    "batch.run": "Change all photos",
    "batch.empty": "Give photos and say what to change: what becomes of each appears here.",
    "batch.none": "Upload photos first.",
    "batch.many": "These are {count} photos, and {most} are the most here: give fewer, or use `emorig edit FOLDER`.",
    "batch.large": "The photos have more than {most} MB in all, which are the most here: give fewer, or use `emorig "
    "edit FOLDER`.",
    "batch.kind": "This is no photo by its name ({kinds}).",
    "batch.pixels": "The photo has {count:.0f} megapixels, and {most} are the most here: make it smaller, or edit it "
    "by itself.",
    "batch.odd": "Something went wrong that nobody foresaw: try this photo by itself.",
    "batch.frames": "The file holds {count} pictures, of which the first was edited.",
    "batch.called": "Called {name} in the zip.",
    "batch.failed": "Not edited:",
    "batch.photo": "Photo {number} of {total}",
    "batch.done": "{edited} of {total} photos edited, {failed} failed.",
    "batch.stopped": "Stopped: {edited} of {total} photos edited, {failed} failed.",
    "batch.before": "Before",
    "batch.after": "After",
    "batch.outcome": "Photo",
    "batch.download": "Download all (ZIP)",
    # the tab that compares pipelines
    "compare.tab": "Compare",
    "compare.source": "Source: whose face it is",
    "compare.target": "Target: whose expression it gets",
    "compare.modes": "What the target lends",
    "compare.exp": "Expression",
    "compare.pose": "Head pose",
    "compare.light": "Light",
    "compare.latent": "Code of the photo",
    "compare.run": "Compare",
    "compare.empty": "Give two photos: the first one's face with the second one's expression appears here.",
    "compare.none": "Give a source and a target photo first.",
    "compare.about": "Loaded: {names}. Others come beside them with `python space/app.py --with FOLDER`, which "
    "may be given again; a rig with DECA and EMOCA shows each as source and as target.",
    "compare.download": "Download PNG",
    "compare.times": "How long it took",
    # how far a job is
    "job.waiting": "Waiting for those who came before …",
    "job.looking": "Looking at the faces …",
    "job.frame": "Frame {done} of {total}",
    "job.frames": "{done} frames",
    "job.rate": " · {rate:.1f} frames a second",
    "job.left": " · {seconds:.0f} s left",
}
JAPANESE = {
    "title": "# EmoRig\n顔の表情だけを変えて、その人らしさはそのままに。",
    "note": "ご自身、または本人の同意を得た方の写真・動画にお使いください。人をだます目的では使わないでください。"
    "処理はすべてこのサーバー内で行われます。",
    "drop": "# {what}\nここにドロップ、またはクリックして選択",
    "drop.file": "ここにドロップ、またはクリックして選択",
    "warning": "ご確認ください",
    "info": "お知らせ",
    "reset": "写真の状態に戻す",
    "undo": "元に戻す",
    "redo": "やり直す",
    "go_on": "この結果から続ける",
    "stop": "中止",
    "stopped": "中止しました。",
    "no_photo": "先に写真を選んでください。",
    "no_clip": "先に動画を選ぶか、録画してください。",
    "no_scan": "先にスキャンデータを選んでください。",
    "not_fetched": "このアドレスのファイルを取得できませんでした。写真や動画の公開された http または https の"
    "アドレスを指定するか、アップロードしてください。",
    "not_uploaded": "アップロードされた写真ではありません。先に写真をアップロードしてください。",
    "duplicate": "このSpaceを複製",
    # faces
    "faces": "顔",
    "faces.which": "編集する顔（写真の顔をクリックしても選べます）",
    "faces.largest": "一番大きい顔",
    "faces.all": "全員",
    "faces.one": "顔{number}：{what}",
    # a sentence
    "prompt": "言葉で指定",
    "prompt.example": "照れ笑い、目を大きく",
    "prompt.run": "実行",
    "prompt.and": "、",
    "prompt.unknown": "わからなかった言葉：{words}",
    "prompt.first": "写真を選ぶと反映されます。",
    # emotions
    "emotion": "表情",
    "emotion.neutral": "真顔",
    "emotion.happy": "笑顔",
    "emotion.sad": "悲しみ",
    "emotion.surprise": "驚き",
    "emotion.fear": "恐れ",
    "emotion.disgust": "嫌悪",
    "emotion.anger": "怒り",
    "emotion.contempt": "軽蔑",
    "strength": "強さ",
    # the tab of photos
    "photo.tab": "写真",
    "photo": "写真",
    "photo.examples": "サンプルで試す",
    "shape": "顔の形を保つ",
    "run": "表情を変える",
    "all": "8つの表情を一度に見る",
    "all.about": "使いたい表情をクリック",
    "reference": "お手本の写真",
    "reference.part": "別の写真の表情をまねる",
    "attributes": "属性",
    "attributes.which": "変える属性",
    "attributes.amount": "量（マイナスで弱める）",
    "units": "細かな動き（アクションユニット）",
    "units.about": "スライダーは写真の表情に合わせた位置から始まります。",
    "units.one": "{movement}（{unit}）",
    "units.AU1": "眉の内側を上げる",
    "units.AU2": "眉の外側を上げる",
    "units.AU4": "眉を寄せて下げる",
    "units.AU5": "目を見開く",
    "units.AU6": "頬を上げる",
    "units.AU7": "まぶたに力を入れる",
    "units.AU9": "鼻にしわを寄せる",
    "units.AU10": "上唇を上げる",
    "units.AU12": "口角を上げる",
    "units.AU15": "口角を下げる",
    "units.AU17": "あごを押し上げる",
    "units.AU20": "唇を横に引く",
    "units.AU24": "唇を結ぶ",
    "units.AU26": "口を開ける",
    "units.AU43": "目を閉じる",
    "units.sides": "片側だけ動かす（本人から見た左右）",
    "units.R2": "右の眉の外側を上げる",
    "units.L2": "左の眉の外側を上げる",
    "units.R43": "右目を閉じる",
    "units.L43": "左目を閉じる",
    "units.R12": "右の口角を上げる",
    "units.L12": "左の口角を上げる",
    "pose": "顔の向き",
    "pose.yaw": "左右 °（＋で本人の左）",
    "pose.pitch": "上下 °（＋で上）",
    "pose.roll": "傾き °（＋で本人の右肩側）",
    "gaze": "視線",
    "gaze.yaw": "左右 °（＋で本人の左）",
    "gaze.pitch": "上下 °（＋で上）",
    "gaze.camera": "カメラ目線にする",
    "light": "照明",
    "light.yaw": "左右 °（＋で本人の左から）",
    "light.pitch": "上下 °（＋で上から）",
    "light.strength": "光の強弱（0で均一、1で写真のまま）",
    "sampling": "生成の設定",
    "sampling.seed": "シード",
    "sampling.steps": "ステップ数",
    "result": "結果",
    "result.empty": "写真を選んで表情をクリックすると、ここに結果が表示されます。",
    "result.download": "PNGを保存",
    "looks": "これまでの結果",
    "look.photo": "元の写真",
    "look.then": " → ",
    "look.reference": "{name}の表情",
    "look.yaw": "左右",
    "look.pitch": "上下",
    "look.roll": "傾き",
    "look.gaze": "視線 {yaw:+.0f}° {pitch:+.0f}°",
    "look.light": "照明 {yaw:+.0f}° {pitch:+.0f}°",
    "look.light_strength": "光の強弱 {percent:.0f} %",
    "look.camera": "カメラ目線",
    "nothing_yet": "先に表情を選ぶか、スライダーを動かしてください。",
    "presets": "プリセット",
    "presets.chosen": "このブラウザに保存したもの",
    "presets.name": "名前",
    "presets.save": "保存",
    "presets.link": "この設定でページを開くリンク",
    "presets.file": "ファイルに保存",
    "presets.load": "ファイルを読み込む",
    "presets.loaded": "プリセット「{name}」：写真を選ぶと反映されます。",
    "buffers": "途中の画像",
    "buffers.result": "結果",
    "buffers.normal": "法線",
    "buffers.albedo": "アルベド",
    "buffers.rendered": "レンダリング",
    "buffers.repainted": "描き直した部分",
    "buffers.photo": "写真",
    "buffers.reconstructed": "再構成",
    "buffers.edited": "編集後",
    "buffers.replaced": "置き換えた部分",
    "head": "3Dの頭部",
    "animation": "アニメーション",
    "animation.run": "アニメーションにする",
    "animation.seconds": "長さ（秒）",
    "animation.loop": "元の表情に戻る",
    "animation.download": "アニメーションを保存",
    # the tab of clips
    "clip.tab": "動画",
    "clip": "動画",
    "clip.photo": "動画の動きで写真を動かす",
    "clip.run": "動画の表情を変える",
    "clip.before": "編集前",
    "clip.after": "編集後",
    "clip.empty": "動画を選んで表情をクリックすると、ここに結果が表示されます。",
    "clip.play": "同時に再生",
    "clip.download": "MP4を保存",
    # the tab of many photos
    "batch.tab": "まとめて編集",
    "batch.photos": "写真（複数）",
    "batch.prompt": "または言葉で指定",
    "batch.preset": "またはプリセット",
    "batch.face": "各写真で編集する顔",
    "batch.run": "すべての写真を変える",
    "batch.empty": "写真をまとめて選び、変え方を指定して実行すると、1枚ごとの結果がここに表示されます。",
    "batch.none": "先に写真を選んでください。",
    "batch.many": "写真が{count}枚あります。一度に編集できるのは{most}枚までです。枚数を減らすか、"
    "`emorig edit FOLDER` をお使いください。",
    "batch.large": "写真の合計が{most} MBを超えています。枚数を減らすか、`emorig edit FOLDER` をお使いください。",
    "batch.kind": "写真のファイル名ではありません（{kinds}）。",
    "batch.pixels": "写真が{count:.0f}メガピクセルあります。上限は{most}メガピクセルです。"
    "縮小するか、1枚だけで編集してください。",
    "batch.odd": "予期しない問題が起きました。この写真は1枚だけで試してください。",
    "batch.frames": "{count}枚の画像を含むファイルです。最初の1枚を編集しました。",
    "batch.called": "ZIPの中での名前：{name}",
    "batch.failed": "編集できませんでした：",
    "batch.photo": "{total}枚中{number}枚目",
    "batch.done": "{total}枚中{edited}枚を編集しました（失敗{failed}枚）。",
    "batch.stopped": "中止しました：{total}枚中{edited}枚を編集（失敗{failed}枚）。",
    "batch.before": "編集前",
    "batch.after": "編集後",
    "batch.outcome": "写真",
    "batch.download": "すべて保存（ZIP）",
    # the tab of comparisons
    "compare.tab": "比較",
    "compare.source": "元の写真（この人の顔を使います）",
    "compare.target": "お手本の写真（この表情にします）",
    "compare.modes": "お手本から取り入れるもの",
    "compare.exp": "表情",
    "compare.pose": "顔の向き",
    "compare.light": "照明",
    "compare.latent": "写真のコード",
    "compare.run": "比較する",
    "compare.empty": "2枚の写真を選んで比較すると、ここに結果が表示されます。",
    "compare.none": "先に元の写真とお手本の写真を選んでください。",
    "compare.about": "読み込み済み：{names}。`python space/app.py --with FOLDER`（複数指定可）で起動すると、"
    "ほかのモデルも並べて表示します。"
    "DECAとEMOCAを含むモデルでは、それぞれを元とお手本の両方に使った結果を表示します。",
    "compare.download": "PNGを保存",
    "compare.times": "処理時間",
    # the tab of scans
    "scan.tab": "3Dスキャン",
    "scan": "スキャンデータ（PLY、OBJ、GLB、NPZ）",
    "scan.about": "メッシュ、または点群（法線はなくても可）。単位や向きは問いません。処理には30秒ほど、"
    "混雑時はさらにかかります。",
    "scan.none": "ニューラルヘッドが読み込まれていません。`--head FOLDER` を付けてデモを起動してください（FOLDER は "
    "`emorig convert nphm` または `train/train_nphm.py` の出力先）。アップロードしたスキャンに頭部を"
    "合わせられるようになります。",
    "scan.run": "頭部を合わせる",
    "scan.looking": "スキャンの向きを調べています…",
    "scan.step": "ステップ {done}／{total}・残り{seconds:.0f}秒",
    "scan.drawing": "頭部の表面を求めています…",
    "scan.done": "{seconds:.0f}秒で完了しました。スキャンの半分は頭部から{misfit:.1f} mm以内にあります。",
    "scan.poor": "スキャンとうまく合っていません。頭部以外のデータは合わせられず、頭部の一部だけのデータは"
    "向きを誤ることがあります。`emorig head fit --landmarks` で位置を指定できます。",
    "scan.download": "GLBを保存（スキャンの位置）",
    "scan.codes": "コードを保存",
    # how far a job is
    "job.waiting": "順番をお待ちください…",
    "job.looking": "顔を調べています…",
    "job.frame": "{total}フレーム中{done}フレーム",
    "job.frames": "{done}フレーム",
    "job.rate": "・毎秒{rate:.1f}フレーム",
    "job.left": "・残り{seconds:.0f}秒",
}
LANGUAGES = {"en": ENGLISH, "ja": JAPANESE}
"""Language, as browsers name it -> its table."""
NAMES = {"en": "English", "ja": "日本語"}
_MARK = re.compile(r"__i18n__(\{[^}]*\})")
_marking = ContextVar("marking", default=False)
_marked: dict[str, tuple[str, dict[str, Any]]] = {}


@contextmanager
def marking() -> Iterator[None]:
    """In this block, in which a page is built for everybody, `say` gives a mark that the visitor's browser replaces by
    the text in their language, at any time (`translations`)."""
    token = _marking.set(True)
    try:
        yield
    finally:
        _marking.reset(token)


def mark(key: str, **values: object) -> str:
    """gradio's own mark of a translated text. The names of texts are none that a component may have as its value, which
    gradio would translate as well."""
    name = f"say:{key}"
    if values:
        name += f":{zlib.crc32(json.dumps(values).encode()):x}"
    _marked[name] = key, values
    return str(I18nData(name))


def translations() -> dict[str, dict[str, str]]:
    """Language -> the text of every mark that was made."""
    return {
        wanted: {name: _unmarked(wanted, _text(wanted, key, values)) for name, (key, values) in _marked.items()}
        for wanted in LANGUAGES
    }


def _unmarked(wanted: str, text: str) -> str:
    """A text with those of the marks in it."""
    return _MARK.sub(lambda found: _unmarked(wanted, _text(wanted, *_marked[json.loads(found[1])["key"]])), text)


def language() -> str:
    """Of the visitor whose event is handled; English where nobody asks."""
    request = LocalContext.request.get(None)
    return wanted_language(request.headers, request.query_params) if request else "en"


def wanted_language(headers: Any, query: Any) -> str:
    """The language that a page's address names (`?lang=ja`), or else the browser asks for first, of those that are
    here; English if there is none. `style.head` asks the browser the same."""
    wanted = [query.get("lang", ""), *headers.get("accept-language", "").split(",")]
    tags = (part.split(";")[0].strip().lower().split("-")[0] for part in wanted)
    return next((tag for tag in tags if tag in LANGUAGES), "en")


def say(key: str, **values: object) -> str:
    """The text of a key in the visitor's language, with values in its places; a mark of it in `marking`."""
    return mark(key, **values) if _marking.get() else _text(language(), key, values)


def _text(wanted: str, key: str, values: dict[str, Any]) -> str:
    text = LANGUAGES[wanted].get(key, ENGLISH[key])
    return text.format(**values) if values else text


def say_emotion(name: str) -> str:
    """An emotion's name for the eye; of a checkpoint's own emotions, its own."""
    key = f"emotion.{name}"
    return say(key) if key in ENGLISH else name.capitalize()
