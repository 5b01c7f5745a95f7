"""Languages: by which locale names packages know them, and where the Declaration of Human Rights has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from smoe_mt.language_codes import is_english


@dataclass(frozen=True)
class Language:
    """A language's code here, the locale names that it goes by, and its Declaration of Human Rights ("": none)."""

    code: str
    locales: tuple[str, ...]
    declaration: str

    def has_locale(self, name: str) -> bool:
        """Whether a file's locale name ("ms_MY", "ms-my") is this language."""
        return name.lower().replace("-", "_") in self.locales


# code in OPUS-100 ("-": none), code with three letters where M4 or M15 have the language, Declaration, locales
TABLE = """
- nso nso nso nso_za
ms msa mly_latn ms ms_my
- tgl tgl tl fil tl_ph fil_ph
ca cat cat ca ca_es
- run run rn rn_bi run
- ssw ssw ss ss_za ssw
id ind ind id id_id in
nb nob nob nb nb_no no no_no
is isl isl is is_is
- fao fao fo fo_fo
sl slv slv sl sl_si
- ltz ltz lb lb_lu
li lim - li li_nl li_be
gl glg glg gl gl_es
- fur fur fur fur_it
af - afr af af_za
am - amh am am_et
an - arg an an_es
ar - arb ar ar_sa ar_eg
as - asm as as_in
az - azj_latn az az_az az_latn
be - bel be be_by
bg - bul bg bg_bg
bn - ben bn bn_bd bn_in
br - bre br br_fr
bs - bos_latn bs bs_ba
cs - ces cs cs_cz
cy - cym cy cy_gb
da - dan da da_dk
de - deu_1996 de de_de
dz - dzo dz dz_bt
el - ell_monotonic el el_gr
eo - epo eo
es - spa es es_es
et - est et et_ee
eu - eus eu eu_es
fa - pes_1 fa fa_ir
fi - fin fi fi_fi
fr - fra fr fr_fr
fy - fri fy fy_nl
ga - gle ga ga_ie
gd - gla gd gd_gb
gu - guj gu gu_in
ha - hau_NG ha ha_ng
he - heb he he_il iw
hi - hin hi hi_in
hr - hrv hr hr_hr
hu - hun hu hu_hu
hy - hye hy hy_am
ig - ibo ig ig_ng
it - ita it it_it
ja - jpn ja ja_jp
ka - kat ka ka_ge
kk - kaz kk kk_kz kk_cyrl
km - khm km km_kh
kn - kan kn kn_in
ko - kor ko ko_kr
ku - kmr ku ku_latn ku_tr kmr
ky - kir ky ky_kg
lt - lit lt lt_lt
lv - lvs lv lv_lv
mg - plt mg mg_mg
mk - mkd mk mk_mk
ml - mal ml ml_in
mn - khk mn mn_mn
mr - mar mr mr_in
mt - mlt mt mt_mt
my - mya my my_mm
ne - nep ne ne_np
nl - nld nl nl_nl
nn - nno nn nn_no
no - nob nb nb_no no no_no
oc - oci_1 oc oc_fr
or - ori or or_in
pa - pan pa pa_in
pl - pol pl pl_pl
ps - pbu ps ps_af
pt - por_PT pt pt_pt
ro - ron_2006 ro ro_ro
ru - rus ru ru_ru
rw - kin rw rw_rw
se - sme se se_no
sh - - sh sh_yu
si - sin si si_lk
sk - slk sk sk_sk
sq - als sq sq_al
sr - srp_cyrl sr sr_rs sr_ec sr_cyrl
sv - swe sv sv_se
ta - tam ta ta_in ta_lk
te - tel te te_in
tg - tgk tg tg_tj tg_cyrl
th - tha th th_th
tk - tuk_latn tk tk_tm
tr - tur tr tr_tr
tt - tat tt tt_ru tt_cyrl
ug - uig_arab ug ug_cn ug_arab
uk - ukr uk uk_ua
ur - urd ur ur_pk
uz - uzn_latn uz uz_uz
vi - vie vi vi_vn
wa - wln wa wa_be
xh - xho xh xh_za
yi - ydd yi
yo - yor yo yo_ng
zh - cmn_hans zh zh_cn zh_hans
zu - zul zu zu_za
"""


def _languages() -> dict[str, Language]:
    """By code; where there are two codes, by both."""
    languages = {}
    for line in TABLE.split("\n")[1:-1]:
        *codes, declaration, rest = line.split(maxsplit=3)
        for code in codes:
            if code != "-":
                languages[code] = Language(code, tuple(rest.split()), declaration.strip("-"))
    return languages


LANGUAGES = _languages()


#: Codes of three letters, as NLLB has them: {"deu": "de"}.
_BY_THREE_LETTERS = {one.declaration.split("_")[0]: one.locales[0] for one in LANGUAGES.values() if one.declaration}


def library_code(language: str) -> str:
    """What libraries call a language: "de" for deu_Latn, "ms" for msa; the bare code for one that LANGUAGES lacks."""
    code = language.split("_")[0].lower()
    if is_english(code):
        return "en"
    return LANGUAGES[code].locales[0] if code in LANGUAGES else _BY_THREE_LETTERS.get(code, code)


def two_letter_codes(codes: Iterable[str]) -> dict[str, str]:
    """What libraries call those of the languages that have another code here: {"msa": "ms"}."""
    return {code: LANGUAGES[code].locales[0] for code in codes if code in LANGUAGES and len(code) > 2}
