"""Domains under which strangers have their mail: they say nothing of a company, and nothing is shared under them.

Free mail, the mail of internet providers, aliases that hide an address, and the best known throw-away addresses. A
provider whose own people write from the same domain is in here too: to know no company is better than a wrong one.
"""

from __future__ import annotations

from typing import Final

# By the name that stands before them. Only endings under which there is or was mail.
_AT: Final = {
    "fastmail": "ca cn co.uk com com.au de es fm fr in jp mx net nl org se to tw us",
    "gmx": "at biz ch co.uk com de es eu fr info li net org pt us",
    "hotmail": """
        at be bg ca ch cl co co.id co.il co.in co.jp co.kr co.nz co.th co.uk co.za com com.ar com.au com.br com.hk
        com.mx com.my com.pe com.ph com.sg com.tr com.tw com.vn cz de dk ee es fi fr gr hu ie it jp kz lt lu lv my nl
        no ph pt ro rs ru se sg sk th
    """,
    "live": """
        at be ca ch cl cn co.kr co.uk co.za com com.ar com.au com.mx com.my com.ph com.pt com.sg de dk fi fr hk ie in
        it jp nl no ph ru se sg
    """,
    "outlook": """
        at be bg ca cl co co.id co.il co.nz co.th co.uk com com.ar com.au com.br com.gr com.hk com.pe com.pl com.tr
        com.tw com.vn cz de dk ee es fr hr hu ie in it jp kr lt lv mx my ph pt ro sa se sg si sk
    """,
    "posteo": "at be ch cl co de dk es eu hu in.th it jp lt me mx net nl no org pe pl se us",
    "tiscali": "at be ch co.uk cz de dk es fr it lu nl se",
    "yahoo": """
        at be bg ca cl cm cn co co.cr co.hu co.id co.il co.in co.jp co.kr co.nz co.th co.uk co.za com com.ar com.au
        com.br com.cn com.co com.ec com.hk com.hr com.mx com.my com.pe com.ph com.pk com.sg com.tr com.tw com.ua
        com.ve com.vn cz de dk ee es fi fr gr hr hu ie in it lt lv my net nl no pl pt ro rs ru se si sk
    """,
    "yandex": "az by co.il com com.am com.ge com.tr com.ua ee fr kg kz lt lv md net pl ru tj tm ua uz",
}

_AMONG: Final = {
    "large": """
        aim.com aol.co.uk aol.com aol.de aol.es aol.fr aol.it compuserve.com cs.com gmail.com googlemail.com
        hotmail.net icloud.com love.com mac.com me.com msn.cn msn.com msn.nl netscape.com netscape.net passport.com
        rocketmail.com verizon.net windowslive.com wow.com y7mail.com ya.ru yahoogroups.com yahoomail.com ygm.com
        ymail.com
    """,
    "mail only": """
        airmail.net asia.com atomicmail.io bigfoot.com bigstring.com boxbe.com cheerful.com chemist.com cock.li
        consultant.com contractor.net cyberdude.com cyberservices.com disroot.org dr.com email.com engineer.com
        europe.com excite.com execs.com financier.com hailmail.net hey.com hush.com hushmail.com iname.com inbox.com
        inbox.lv inboxalias.com internet-mail.org keemail.me kolabnow.com lavabit.com lawyer.com lycos.com mail-me.com
        mail.com mailbox.org mailcan.com mailfence.com mailhaven.com mailite.com mailnew.com mailo.com mein.email
        messagingengine.com minister.com musician.org myself.com net-c.com netaddress.com netc.eu netc.fr null.net
        ok.de openmailbox.org operamail.com photographer.net pm.me pobox.com post.com priest.com programmer.net
        proton.me protonmail.ch protonmail.com publicist.com realtyagent.com registerednurses.com repairman.com
        representative.com rescueteam.com riseup.net runbox.com safe-mail.net sanfranmail.com scientist.com
        secretary.net sent.com seznam.cz skiff.com socialworker.net sociologist.com solution4u.com songwriter.net
        startmail.com switchboardmail.com teachers.org techie.com technologist.com therapist.net tuta.com tuta.io
        tutamail.com tutanota.com tutanota.de unforgettable.com uol.com usa.com usa.net vivaldi.net warpmail.net
        webname.com writeme.com xsmail.com zoho.com zoho.eu zoho.in zohomail.com zohomail.eu zohomail.in
    """,
    "aliases": """
        33mail.com 8alias.com addy.io aleeas.com anonaddy.com anonaddy.me duck.com mozmail.com passinbox.com
        passmail.com passmail.net privaterelay.appleid.com relay.firefox.com silomails.com simplelogin.co
        simplelogin.com slmail.me
    """,
    "throw-away": """
        10minutemail.com 20minutemail.com burnermail.io byom.de discard.email dispostable.com dropmail.me
        emailondeck.com fakeinbox.com getairmail.com getnada.com grr.la guerrillamail.biz guerrillamail.com
        guerrillamail.de guerrillamail.info guerrillamail.net guerrillamail.org guerrillamailblock.com inboxbear.com
        inboxkitten.com incognitomail.com jetable.org mail-temp.com mail.tm mailcatch.com maildrop.cc mailinator.com
        mailinator.net mailnesia.com mailnull.com mailsac.com mintemail.com moakt.com mohmal.com mytemp.email
        mytrashmail.com nada.email pokemail.net sharklasers.com spam4.me spambog.com spamgourmet.com temp-mail.io
        temp-mail.org tempail.com tempmail.com tempmail.net tempmailo.com throwawaymail.com trash-mail.com
        trashmail.com trashmail.de trashmail.net wegwerfemail.de yopmail.com yopmail.fr yopmail.net
    """,
    "US": """
        adelphia.net alltel.net ameritech.net att.net bellatlantic.net bellsouth.net cableone.net centurylink.net
        centurytel.net charter.net cincinnatibell.net comcast.net cox.net earthlink.net embarqmail.com epix.net
        fairpoint.net flash.net frontier.com frontiernet.net fuse.net gci.net gte.net hargray.net hawaiiantel.net
        hughes.net insightbb.com juno.com knology.net localnet.com mchsi.com metrocast.net mindspring.com netzero.com
        netzero.net nvbell.net optimum.net optonline.net pacbell.net peoplepc.com prodigy.net ptd.net q.com qwest.net
        rcn.com roadrunner.com rr.com sbcglobal.net snet.net sonic.net starpower.net suddenlink.net surewest.net
        swbell.net tds.net toast.net twc.com uswest.net wavecable.com windstream.net wowway.com zoominternet.net
        zoomtown.com
    """,
    "Canada": """
        aliant.net bell.net bellnet.ca cogeco.ca eastlink.ca mts.net primus.ca rogers.com sasktel.net shaw.ca
        sympatico.ca tbaytel.net telus.net telusplanet.net videotron.ca videotron.qc.ca xplornet.ca xplornet.com
    """,
    "Britain, Ireland": """
        blueyonder.co.uk btconnect.com btinternet.com btopenworld.com clara.co.uk clara.net demon.co.uk eircom.net
        freenetname.co.uk freeserve.co.uk freeuk.com fsmail.net fsnet.co.uk iol.ie iolfree.ie lineone.net
        madasafish.com mail2world.com mypostoffice.co.uk netscapeonline.co.uk ntlworld.com o2.co.uk oceanfree.net
        onetel.com orange.net orangehome.co.uk pipex.com plus.com plus.net plusnet.com postmaster.co.uk sky.com
        supanet.com talk21.com talktalk.co.uk talktalk.net tesco.net totalise.co.uk toucansurf.com uwclub.net
        virgin.net virginmedia.com worldonline.co.uk zen.co.uk
    """,
    "Germany, Austria, Switzerland": """
        abwesend.de addcom.de alice-dsl.net alice.de aon.at arcor.de bluemail.ch bluewin.ch chello.at email.de epost.de
        ewe.net ewetel.net firemail.de freenet.de freesurf.ch genion.de germanynet.de gmail.ch gmail.de hispeed.ch
        home.de htp-tel.de inode.at kabelbw.de kabelmail.de kabelplus.at kabsi.at liwest.at mail.de mailbox.de
        mnet-mail.de mnet-online.de nefkom.net netcologne.de o2online.de online.de onlinehome.de osnanet.de
        primacom.net smart-mail.de sms.at sofort-mail.de spam.care sunrise.ch swissonline.ch t-online.de tele2.de
        telering.at ticino.com unitybox.de utanet.at versanet.de vodafone.de vodafonemail.de vtxmail.ch web.de
    """,
    "France, Belgium, Luxembourg": """
        9online.fr alice.fr aliceadsl.fr bbox.fr belgacom.net brutele.be caramail.com cario.fr cegetel.net
        club-internet.fr dbmail.com estvideo.fr euphonynet.be evhr.net free.fr freesurf.fr gmail.fr ifrance.com
        infonie.fr internet.lu laposte.net libertysurf.fr mageos.com mailo.fr neuf.fr noos.fr nordnet.fr
        numericable.com numericable.fr orange.fr proximus.be pt.lu scarlet.be sfr.fr skynet.be tele2.fr telenet.be
        versatel.be vo.lu voila.fr voo.be wanadoo.fr worldonline.fr
    """,
    "Netherlands": """
        caiway.nl casema.nl chello.nl dds.nl freeler.nl gmail.nl hccnet.nl hetnet.nl home.nl kabelfoon.net kabelfoon.nl
        kpnmail.nl kpnplanet.nl lijbrandt.nl mail.nl multiweb.nl onsbrabantnet.nl onsnet.nu onsneteindhoven.nl
        orange.nl planet.nl quicknet.nl scarlet.nl solcon.nl tele2.nl telfort.nl tomaatnet.nl upcmail.nl versatel.nl
        vodafonethuis.nl wanadoo.nl wxs.nl xmsnet.nl xs4all.nl zeelandnet.nl ziggo.nl zonnet.nl
    """,
    "Italy, Spain, Portugal, Greece, Malta, Cyprus": """
        acn.gr aeiou.pt alice.it aliceposta.it arrakis.es aruba.it blu.it cablenet.com.cy clix.pt cytanet.com.cy
        email.it eresmas.com euskalnet.net fastwebmail.it fastwebnet.it forthnet.gr freemail.gr gmail.it go.net.mt
        hol.gr in.gr inicia.es interfree.it inwind.it iol.it iol.pt jazzfree.com jazztel.es jumpy.it katamail.com
        libero.it lycos.it mail.pt mailbox.gr maltanet.net mclink.it megamail.pt melita.com meo.pt mixmail.com
        mundo-r.com netcabo.pt netvisao.pt oninet.pt ono.com onvol.net orange.es otenet.gr pathfinder.gr
        portugalmail.com portugalmail.pt poste.it postemail.it sapo.pt supereva.it telefonica.net teleline.es
        telepac.pt teletu.it terra.es tim.it tin.it tiscalinet.it virgilio.it vivodi.gr vodafone.it wanadoo.es ya.com
        zonmail.pt
    """,
    "northern Europe": """
        ahaa.dk altibox.no bostream.nu bredband.net bredband2.com c2i.net chello.no comhem.se cool.dk dlgmail.dk
        dnainternet.net elisanet.fi epost.no forum.dk frisurf.no get2net.dk getmail.no glocalnet.net home.se iki.fi
        internet.is jubii.dk jubiimail.dk kolumbus.fi kotikone.fi luukku.com lyse.net mail.dk mail.tele.dk mbnet.fi
        netti.fi nic.fi ofir.dk online.no ownit.nu passagen.se post.tele.dk pp.inet.fi privat.dk saunalahti.fi sci.fi
        simnet.is sol.dk spray.se start.no stofanet.dk suomi24.fi surffi.net swipnet.se tdcadsl.dk tele2.no tele2.se
        tele2adsl.dk telia.com vip.cybercity.dk vortex.is welho.com youmail.dk
    """,
    "eastern Europe": """
        abv.bg amis.net amorki.pl apollo.lv atlas.cz atlas.sk autograf.pl azet.sk beotel.net beotel.rs bih.net.ba
        bumerang.ro buziaczek.pl centrum.cz centrum.sk chello.hu citromail.hu clicknet.ro digikabel.hu dir.bg
        e-apollo.lv e-mail.ro email.cz email.si epoczta.pl eunet.rs fibermail.hu freemail.hu freestart.hu gazeta.pl
        gbg.bg globalnet.hr gmail.bg gmail.ro gmail.si go2.pl home.ro hot.ee inbox.ee inbox.eu inbox.lt indamail.hu
        inet.hr inmail.sk int.pl interia.eu interia.pl invitel.hu iol.cz k.ro klikni.cz mail.bg mail.cz mail.ee mail.lv
        mail.orbitel.bg mail.t-com.sk mailbox.hu mts.rs navigators.lv neobee.net neostrada.pl net.hr neti.ee o2.pl
        o2active.cz one.lt onet.com.pl onet.eu onet.pl online.ee op.pl open.telekom.rs opoczta.pl optinet.hr
        orangemail.sk personal.ro pobox.sk poczta.fm post.cz post.sk prokonto.pl ptt.rs quick.cz razdva.cz rdslink.ro
        romtelecom.ro sbb.rs siol.com siol.net spoko.pl spoluzaci.cz stream.cz suhr.ee szm.sk t-2.net t-email.hu
        t-online.hu takas.lt tenbit.pl tlen.pl upcmail.cz upcmail.hu upcmail.ro verat.net vip.hr vipmail.hu volja.net
        volny.cz vp.pl wp.eu wp.pl yubc.net zebra.lt zg.t-com.hr zoznam.sk
    """,
    "Russia and neighbours": """
        3g.ua autorambler.ru bigmir.net bk.ru box.az email.ru email.ua ex.ua front.ru gmail.ru hotbox.ru i.ua inbox.ru
        internet.ru land.ru lenta.ru list.kz list.ru mail.az mail.by mail.kg mail.kz mail.md mail.ru mail.ua mail.uz
        meta.ua myrambler.ru narod.ru newmail.ru nm.ru nxt.ru online.ua pisem.net pochta.com pochta.ru qip.ru r0.ru
        rambler.ru rambler.ua ro.ru smtp.ru tut.by ukr.net ukrpost.ua ukrtop.com urk.net vk.com xaker.ru xmail.ru
    """,
    "Turkey, Near East, Africa": """
        012.net.il 013.net 013net.net absamail.co.za actcom.co.il africamail.com africaonline.co.ke barak.net.il
        batelco.com.bh bezeqint.net caramail.ma chmail.ir cyberia.net.lb e-kolay.net eim.ae eject.co.za ekolay.net
        emirates.net.ae gmail.co.il gnet.tn iafrica.com icon.co.za idm.net.lb inco.com.lb intekom.co.za inter.net.il
        intnet.mu ionet.co.za lantic.net link.net mail.co.za mailfa.com maktoob.com menara.ma mweb.co.za mynet.com
        nana.co.il netactive.co.za netvision.net.il omantel.net.om orange.sn planet.tn polka.co.za qatar.net.qa
        qualitynet.net saudi.net.sa smile.net.il superonline.com tedata.net.eg telkomsa.net terra.net.lb topnet.tn
        ttmail.com ttnet.net.tr turk.net vodamail.co.za walla.co.il walla.com wananchi.com webmail.co.za
        windowslive.com.tr worldonline.co.za xsinet.co.za zahav.net.il zajil.net
    """,
    "South Asia": """
        bol-online.com bsnl.co.in bsnl.in citechco.net cyber.net.pk dataone.in eth.net eureka.lk gmail.co.in in.com
        india.com indiatimes.com mos.com.np mtnl.net.in ntc.net.np rediff.com rediffmail.com sancharnet.in
        satyam.net.in sify.com sltnet.lk vsnl.com vsnl.net vsnl.net.in wlink.com.np wol.net.pk
    """,
    "East Asia": """
        0355.net 126.com 139.com 163.com 163.net 188.com 189.cn 21cn.com 263.net aliyun.com asahi-net.or.jp auone.jp
        biglobe.ne.jp biznetvigator.com bjpost.com cbn.net.id centrin.net.id chinaren.com chol.com citiz.net
        csloxinfo.com daum.net dion.ne.jp disney.ne.jp docomo.ne.jp dreamwiz.com eastern.com.ph emobile.ne.jp empal.com
        excite.co.jp eyou.com ezweb.ne.jp foxmail.com fpt.vn freechal.com gmail.cn goo.jp goo.ne.jp hanafos.com
        hanmail.com hanmail.net hanmir.com hi-ho.ne.jp hinet.net hkstar.com hongkong.com i-cable.com iijmio-mail.jp
        indo.net.id indosat.net.id infoseek.jp infoseek.ne.jp jaring.my jcom.home.ne.jp kakao.com kimo.com korea.com
        livedoor.com loxinfo.co.th lycos.co.kr mail2000.com.tw mineo.jp mopera.net nate.com naver.com netease.com
        netian.com netvigator.com nifty.com nifty.ne.jp ocn.ne.jp odn.ne.jp pacific.net.sg paran.com pchome.com.tw
        plala.or.jp plasa.com pldtdsl.net qq.com rakumail.jp seed.net.tw sina.cn sina.com sina.com.cn singnet.com.sg
        skybroadband.com.ph so-net.ne.jp so-net.net.tw softbank.jp softbank.ne.jp sogou.com sohu.com starhub.net.sg
        streamyx.com telkom.net thaimail.com tm.net.my tom.com unitel.co.kr uqmobile.jp viettel.vn vnn.vn
        vodafone.ne.jp willcom.com wo.cn wo.com.cn ybb.ne.jp yeah.net ymobile.ne.jp zaq.ne.jp
    """,
    "Oceania": """
        aapt.net.au adam.com.au bigblue.net.au bigpond.com bigpond.com.au bigpond.net.au clear.net.nz dodo.com.au
        es.co.nz exemail.com.au hotkey.net.au ihug.co.nz iinet.net.au inspire.net.nz internode.on.net iprimus.com.au
        netspace.net.au optushome.com.au optusnet.com.au orcon.net.nz ozemail.com.au paradise.net.nz primus.com.au
        slingshot.co.nz snap.net.nz spin.net.au tpg.com.au vodafone.co.nz westnet.com.au xtra.co.nz
    """,
    "Latin America": """
        adinet.com.uy arnet.com.ar bol.com.br brturbo.com.br cable.net.co cantv.net ciudad.com.ar click21.com.br
        coqui.net entelchile.net etb.net.co fibertel.com.ar globo.com globomail.com gmail.com.br ibest.com.br
        ieg.com.br ig.com.br infinitum.com.mx infovia.com.ar itelefonica.com.br latinmail.com manquehue.net
        montevideo.com.uy netuno.net.ve oi.com.br pop.com.br prodigy.net.mx racsa.co.cr speedy.com.ar speedy.com.pe
        superig.com.br telmexmail.com terra.cl terra.com terra.com.ar terra.com.br terra.com.co terra.com.mx
        terra.com.pe terra.com.ve tutopia.com une.net.co uol.com.br uolsinectis.com.ar veloxmail.com.br vtr.net
        zipmail.com.br
    """,
}

FREE_MAIL: Final = frozenset(
    [f"{name}.{end}" for name, ends in _AT.items() for end in ends.split()]
    + [domain for domains in _AMONG.values() for domain in domains.split()]
)


def is_free_mail(host: str) -> bool:
    """Whether a host (lower case, punycode) is such a domain or lies below one: `mail.btinternet.com` does."""
    while host:
        if host in FREE_MAIL:
            return True
        host = host.partition(".")[2]
    return False
