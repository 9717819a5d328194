//! Classes of English words that patterns can name: `<weapon>`, `<make>`. Pure data; words are compared by stem.
//!
//! `<person>`, `<name>` and `<number>` depend on where a word stands: see [`super::reading`]. `<fiction>`, `<world>`,
//! `<inquiry>` and `<care>` are no words but kinds of sentences: see [`super::frame`].

/// A set of classes.
pub(super) type Classes = u64;

/// The class `<person>`: people, pronouns for people, and animals that live with them.
pub(super) const PERSON: Classes = 1;
/// The class `<name>`: a word that is written like a person's name.
pub(super) const NAME: Classes = 1 << 1;
/// The class `<number>`: a word that begins with a digit.
pub(super) const NUMBER: Classes = 1 << 2;
/// The class `<thing>`. A person's word directly before one of them only describes it: "the child process", "her
/// feelings", "shoot me an email". And "them" after one of them means things.
pub(super) const THING: Classes = 1 << 3;

/// Classes whose words count only in some places.
pub(super) const BY_PLACE: Classes = PERSON | NAME | NUMBER;

/// Every class by its name, in the order of their bits, with its words.
pub(super) const CLASSES: &[(&str, &str)] = &[
    (
        "person",
        "someone somebody anyone anybody everyone everybody person people human man men woman women boy girl child \
         children kid baby infant toddler teenager teen adult him her them me you us himself herself themselves myself \
         yourself ourselves patient friend neighbour neighbor colleague coworker boss wife wives husband partner spouse \
         girlfriend boyfriend lover fiance fiancee ex mother father mom mum dad parent brother sister sibling son \
         daughter family grandmother grandfather grandma grandpa uncle aunt cousin nephew niece stepmother stepfather \
         roommate flatmate classmate teacher student pupil doctor nurse officer police policeman cop guard soldier \
         worker employee employer staff customer client consumer user buyer seller investor voter auditor inspector \
         regulator passenger pedestrian cyclist driver pilot civilian bystander crowd refugee immigrant migrant \
         prisoner inmate hostage president senator minister politician mayor candidate governor king queen celebrity \
         stranger guest visitor resident citizen villager tenant landlord demonstrator protester activist journalist \
         reporter witness judge jury lawyer public audience elderly senior pensioner teammate manager supervisor ceo \
         operator technician owner victim survivor beast cashier clerk shopkeeper barista waiter waitress referee coach professor principal nanny babysitter \
         farmer hiker tourist jogger pharmacist dentist scientist programmer sheriff detective thief \
         burglar intruder veteran monk priest rabbi imam nun bishop pope actor actress singer athlete enemy rival twin \
         orphan widow bully captive traitor diplomat ambassador chancellor prince princess millionaire billionaire \
         landlady grandson granddaughter grandchild grandchildren grandparents godmother intern jeweller toddler newborn schoolboy \
         schoolgirl gang mob homeless muslim jew christian hindu black gay lesbian animal dog cat \
         puppy kitten horse pet bird cow elephant dolphin whale hamster parrot guy lady gentleman bloke dude relative mate \
         stepson stepdaughter godfather creditor debtor accountant mechanic plumber paramedic surgeon beggar hooker prostitute \
         stripper rapist blogger streamer youtuber influencer caretaker bouncer bodyguard commuter spectator foreigner rescuer \
         heir bride bachelor subordinate slave spy apprentice trainee disciple follower informant whistleblower gran granny grandad granddad nan nana auntie buddy pal chap \
         fella lad lass missus hubby stepdad stepmom tutor bartender cabbie postman mailman carer lodger roomie folks \
         shopper diner contractor addict junkie convict detainee accuser flatmates youngster preteen schoolkid schoolkids",
    ),
    ("name", ""),
    ("number", ""),
    (
        "thing",
        "process thread session account record task job object node element class window entity table server app \
         application query row container pod service connection page interface story experience profile list email \
         mail message photo picture portrait selfie video text feeling pride chance score credit instance daemon \
         directory folder file id name data database field input request response token key model bot character npc \
         button tab timer ticket component widget frame branch commit script cookie cache socket program virus bug weed \
         shell line note look glance smile question call reminder invite link update copy hand",
    ),
    (
        "product",
        "python java javascript rust ruby perl php linux unix ubuntu debian windows mac macos ios android chrome \
         firefox safari edge excel word outlook photoshop spotify netflix youtube google apple microsoft amazon docker \
         kubernetes apache nginx mysql postgres redis mongodb oracle node npm git github gitlab jenkins slack teams \
         zoom jira alexa siri monday tuesday wednesday thursday friday saturday sunday january february april june july \
         august september october november december english french german spanish italian chinese japanese coke pepsi \
         christmas easter halloween",
    ),
    (
        "kill",
        "kill murder slay slaughter massacre assassinate behead decapitate strangle choke smother suffocate stab \
         lynch electrocute disembowel dismember exterminate asphyxiate garrotte bludgeon",
    ),
    (
        "hurt",
        "harm hurt injure wound torture torment maim mutilate cripple disfigure drown rape molest grope kidnap abduct \
         attack assault abuse punch slap bludgeon shoot shot bomb starve burn poison sedate brutalise brutalize \
         enslave behead waterboard \
         traumatise traumatize thrash tase maul batter incapacitate",
    ),
    (
        "harass",
        "bully threaten stalk cyberstalk harass terrorise terrorize intimidate humiliate cyberbully dox doxx doxing blackmail \
         extort coerce sextort catfish gaslight slander defame libel",
    ),
    (
        "group",
        "women woman girls gays gay lesbian lesbians homosexual homosexuals transgender trans queer lgbt lgbtq jew jews \
         jewish muslim muslims islamic christian christians catholic hindu hindus black blacks african africans asian \
         asians chinese mexican mexicans latino latinos hispanic arab arabs indian indians immigrant immigrants migrant \
         migrants refugee refugees gypsy gypsies roma native autistic elderly minority minorities ethnic race \
         races religion foreigners foreigner buddhist buddhists sikh sikhs mormon mormons hindu asexual bisexual nonbinary indigenous \
         aboriginal homeless divorced pakistani pakistanis indians latina turks kurds poles romanians albanians nigerians \
         haitians koreans japanese palestinians israelis ukrainians russians atheists veterans armenian armenians tutsi tutsis \
         hutu hutus rohingya uyghur uyghurs uighurs bosnians yazidis tibetans dalit dalits maori inuit syrians afghans \
         somalis iraqis iranians vietnamese filipinos sunni shia shiites bisexuals transsexuals transvestites dwarfs \
         handicapped foreigners zionists bosniaks sinti infidel infidels heretics unbelievers apostates homos blasphemers",
    ),
    (
        "weapon",
        "gun guns firearm firearms pistol rifle shotgun handgun ak47 ar15 silencer suppressor weapon weapons \
         ammunition ammo grenade switchblade landmine flamethrower glock bazooka mortar howitzer revolver machinegun bullets silencers handguns \
         rifles \
         uzi kalashnikov carbine derringer blunderbuss",
    ),
    (
        "explosive",
        "bomb bombs explosive explosives dynamite napalm thermite semtex c4 tnt rdx petn tatp anfo detonator ied \
         nitroglycerin hmtd tannerite ammonal claymore grenade molotov pipebomb gunpowder firebomb \
         astrolite tetryl cordite gelignite blackpowder",
    ),
    (
        "toxin",
        "ricin sarin anthrax vx tabun soman novichok botulinum cyanide arsenic strychnine polonium smallpox ebola \
         phosgene bioweapon lewisite abrin thallium cyclosarin dimethylmercury tetrodotoxin phosphine \
         hemlock saxitoxin mycotoxin parathion novichoks marburg variola tularemia h5n1 ebolavirus nightshade aconite chloroform rohypnol plutonium uranium \
         amatoxin colchicine paraquat batrachotoxin conotoxin palytoxin brodifacoum",
    ),
    (
        "drug",
        "meth methamphetamine amphetamine cocaine heroin fentanyl mdma lsd ketamine pcp ghb dmt opium carfentanil \
         psilocybin mephedrone nitazene gbl mescaline xylazine narcotic narcotics roofies \
         flakka cathinone captagon desomorphine krokodil etizolam nbome quaaludes ayahuasca",
    ),
    (
        "malware",
        "malware ransomware spyware keylogger rootkit trojan worm virus botnet backdoor exploit wiper stalkerware \
         cryptominer cryptojacker shellcode infostealer \
         adware scareware bootkit dropper crypter webshell",
    ),
    (
        "secret",
        "password passwords passphrase passcode credential credentials secret secrets apikey token tokens pin private \
         ssh keys key certificate seed keychain shadow passwd env dotenv otp mfa 2fa cookies login logins",
    ),
    (
        "private",
        "address phone ssn salary diary medical health diagnosis prescription location whereabouts passport bank \
         income dossier personal identity birthdate dob hiv criminal genetic biometric fingerprint messages emails \
         texts chats nudes",
    ),
    (
        "money",
        "money cash funds dollars euros pounds savings salary payment payments bitcoin crypto cryptocurrency wallet \
         pension inheritance account accounts bank loan donation donations",
    ),
    (
        "valuable",
        "car cars bike bicycle motorcycle truck vehicle wallet purse phone laptop jewelry jewellery jewels watch \
         diamonds painting package packages parcel merchandise goods copper catalytic money cash funds savings bitcoin \
         crypto property identity bank cards card medication inventory electricity cable wifi data secrets credentials \
         password passwords documents intellectual mail parcel luggage petrol fuel gasoline tools livestock \
         antiques wine jeans sneakers bag groceries",
    ),
    (
        "paper",
        "passport passports id ids licence license visa certificate certificates diploma diplomas degree prescription \
         prescriptions currency money banknotes bills notes signature signatures invoice invoices receipt receipts \
         document documents identity identities ticket tickets cheque check checks card cards transcript records \
         testimony evidence coupons",
    ),
    (
        "place",
        "house home apartment building school hospital church mosque synagogue temple airport station train subway bus \
         bridge mall stadium plane aircraft courthouse embassy capitol parliament concert village city town crowd \
         warehouse store shop bank kindergarten dam pipeline pharmacy museum library factory clinic restaurant hotel casino prison jail \
         cinema supermarket office headquarters garage shed barn cathedral shrine mosque daycare nursery campus",
    ),
    (
        "vital",
        "grid power electricity water reservoir dam pipeline hospital traffic railway air nuclear reactor plant \
         infrastructure ventilator pacemaker insulin dialysis 911 emergency telecom satellite elevator substation",
    ),
    (
        "data",
        "database databases db table tables schema schemas collection collections record records backup backups volume \
         volumes partition partitions disk disks drive drives bucket buckets cluster repository snapshot snapshots \
         namespace filesystem production prod keyspace tablespace replica mailbox archive archives data raid",
    ),
    (
        "system",
        "server servers network networks website websites site sites computer computers account accounts email system \
         systems database wifi router phone phones webcam camera cameras bank atm mainframe laptop device devices \
         instagram facebook snapchat whatsapp gmail icloud database databases firewall api portal grid scada plc \
         satellite voicemail machine machines cctv wordpress vpn modem thermostat drone kiosk terminal billboard",
    ),
    (
        "guard",
        "smoke fire alarm alarms interlock interlocks safety failsafe brake brakes airbag detector detectors sensor \
         sprinkler sprinklers ventilation relief emergency e-stop estop lockout watchdog thermostat circuit breaker \
         limiter overpressure overheat overcurrent guardrail curtain seatbelt",
    ),
    (
        "actuator",
        "valve valves motor motors furnace oven boiler heater conveyor press chainsaw saw crane robot arm laser drone \
         turbine reactor centrifuge pump pumps burner forklift gripper actuator sluice floodgate gate vehicle elevator \
         throttle engine generator",
    ),
    (
        "make",
        "make build create construct assemble synthesize synthesise cook manufacture produce brew fabricate prepare \
         design develop homemade diy improvise formulate enrich extract cultivate weaponize weaponise convert modify \
         code program write generate grow print",
    ),
    (
        "get",
        "buy purchase get obtain acquire order source procure import smuggle sell trade deal distribute traffic steal \
         ship deliver sneak hide conceal bring carry transport supply",
    ),
    (
        "write",
        "write create generate compose draft produce publish post make prepare send share spread tweet craft give \
         provide tell tweeting upload circulate develop design print",
    ),
    (
        "wipe",
        "delete drop wipe erase destroy purge truncate format remove nuke obliterate shred overwrite corrupt encrypt \
         scrub zero rm rmdir unlink clear flush empty destroying deletion erasure",
    ),
    (
        "disable",
        "disable bypass override circumvent ignore disregard deactivate remove delete evade defeat suspend mute silence \
         turn switch shut stop disconnect unplug jam sabotage tamper weaken loosen lift break jailbreak escape forget \
         drop kill skip avoid subvert hide alter edit modify rewrite change erase wipe purge truncate clear falsify \
         forge backdate redact disabling",
    ),
    (
        "leak",
        "leak exfiltrate send email upload post publish share forward transmit expose disclose reveal dump copy export \
         sell transfer paste tweet steal harvest scrape extract collect capture intercept broadcast give show print \
         commit push log read",
    ),
    (
        "hack",
        "hack crack breach infiltrate compromise hijack bruteforce exploit ddos dos deface phish wiretap sabotage \
         infect crash",
    ),
    (
        "spy",
        "spy stalk track monitor follow surveil watch eavesdrop record film photograph bug wiretap tail snoop peep read \
         listen install locate geolocate intercept",
    ),
    (
        "body",
        "skull head face throat neck jaw nose teeth eye eyes ear ears arm arms wrist wrists finger fingers leg legs knee \
         kneecap kneecaps ankle spine sternum rib ribs bone bones chest stomach kidney kidneys liver lung lungs artery \
         arteries vein veins jugular carotid skin flesh genitals testicles scalp limb limbs windpipe nostrils fingernails \
         eyeballs forehead cheek thigh shoulder knuckle body corpse cadaver brain brains guts intestines",
    ),
    (
        "force",
        "crush smash crack shatter break hammer bash stomp saw pierce sever slash slit gouge snap rip tear chop carve cut \
         gut butcher flay scald hit punch kick bite burn twist dislocate fracture puncture rupture bruise scar flog whip \
         cane club batter pummel clobber headbutt trample squash impale scratch stick hack mangle split knock bust tackle \
         shatter amputate lacerate",
    ),
    (
        "finish",
        "terminate execute liquidate eliminate eradicate annihilate obliterate exterminate butcher gut snipe overpower \
         throttle whack snuff ambush impale crucify hunt incapacitate euthanize euthanise decimate incinerate vaporize cannibalize \
         eviscerate scalp immolate bump",
    ),
    (
        "wreck",
        "destroy demolish smash wreck vandalize vandalise torch burn damage trash slash ruin sabotage explode crash \
         sink flood raze level detonate blow bomb deface scratch obliterate devastate",
    ),
    (
        "property",
        "house home car motorbike motorcycle bike bicycle truck van boat garden lawn tree trees fence window windows tire \
         tires tyre tyres phone laptop computer apartment flat shop store garage shed mailbox letterbox grave gravestone \
         van caravan yacht barn crops field greenhouse property",
    ),
    (
        "wrong",
        "violence murder murders homicide assassination massacre massacres genocide terrorism terrorist terrorists \
         kidnapping abduction torture rape assault harassment bullying cyberbullying stalking doxxing doxing \
         blackmail extortion bribery fraud scam scams theft robbery burglary shoplifting embezzlement laundering \
         counterfeiting forgery perjury smuggling trafficking slavery prostitution piracy plagiarism hacking cyberattack \
         cyberattacks phishing malware ransomware racism racist sexism sexist hatred antisemitism antisemitic xenophobia \
         homophobia transphobia bigotry discrimination extremism extremist radicalization nazism nazis fascism supremacy \
         misinformation disinformation propaganda suicide anorexia bulimia pedophilia paedophilia incest \
         bestiality cannibalism arson vandalism sabotage espionage treason rioting looting poaching dogfighting bombing \
         bombings stabbing infanticide swatting catfishing eugenics lynching jihad \
         enslavement misogyny misogynistic islamophobia cheating carjacking hijacking pickpocketing spying espionage \
         voyeurism upskirting necrophilia mutilation sadism cruelty brutality bloodshed mayhem insurrection \
         racketeering sextortion astroturfing collusion impersonation cyberstalking pimping femicide femicides \
         beheading gaslighting pogrom pogroms ethnocide",
    ),
    (
        "promote",
        "promote glorify encourage incite glamorize glamorise romanticize romanticise normalize normalise justify endorse \
         advocate celebrate praise reward facilitate spread foment instigate provoke legitimize legitimise condone \
         trivialize trivialise advertise stoke fuel inflame idealize idolize recommend popularize sell instill \
         arouse rationalize defend support inspire enable automate amplify spark ignite",
    ),
    (
        "guide",
        "tutorial guide instruction instructions manual course lesson tip tips strategy strategies plan plans handbook \
         playbook recipe walkthrough blueprint outline method methods technique techniques step steps template checklist \
         scheme trick tricks hack hacks ways",
    ),
    (
        "caring",
        "prevent stop protect recognise recognize detect cope victim victims survivor survivors survive heal \
         overcome awareness mitigate research understand laws legislation history prevention education oppose condemn \
         criticize criticise recover consequences warn warning symptoms hotline counseling counselling \
         therapy denounce moderate debunk effects statistics rehabilitation prosecute quit rebuild advocacy \
         forbid forbids prohibit penalties penalty deter discourage deterrent ",
    ),
    (
        "minor",
        "child children kid kids minor minors teen teens teenager teenagers underage schoolgirl schoolboy preteen preteens \
         toddler infant baby pupil pupils adolescent adolescents juvenile schoolchild schoolchildren \
         stepdaughter stepson",
    ),
    (
        "stealth",
        "secretly covertly unnoticed undetected discreetly untraceable untraceably undetectable invisibly stealthily \
         surreptitiously unseen illegally unlawfully illicitly fraudulently maliciously",
    ),
    (
        "stuff",
        "coke cocaine crack ecstasy weed heroin meth lsd mdma molly ketamine fentanyl opium cannabis marijuana marihuana hash \
         hashish xanax oxycodone oxycontin adderall ritalin opioids opioid steroids shrooms amphetamine amphetamines \
         methamphetamine dope acid pcp ghb speed codeine morphine percocet vicodin valium narcotics drugs percs",
    ),
    (
        "spread",
        "write create generate compose draft produce publish post make share craft give design develop invent fabricate \
         build prepare provide launch record film host run set start suggest propose describe",
    ),
    (
        "deed",
        "launder embezzle blackmail extort bribe counterfeit kidnap abduct molest rape shoplift pickpocket burgle \
         burglarize carjack swindle defraud scam impersonate cyberstalk doxx doxing sextort slander defame harass bully \
         intimidate terrorize terrorise vandalize vandalise behead dismember mutilate lynch assassinate enslave smuggle \
         plagiarize plagiarise perjure phish ddos eavesdrop wiretap gaslight coerce humiliate radicalize radicalise \
         brainwash indoctrinate catfish pimp misappropriate waterboard falsify deface upskirt derail hotwire sabotage ransack decapitate \
         bilk pilfer bootleg racketeer",
    ),
    (
        "criminal",
        "robber robbers thieves scammer scammers fraudster fraudsters hacker hackers poacher poachers smuggler smugglers \
         terrorist terrorists jihadist jihadists shooter shooters assassin assassins rapist rapists stalker stalkers \
         kidnapper kidnappers murderer murderers pedophile pedophiles paedophile paedophiles trafficker traffickers counterfeiter forger forgers \
         extortionist blackmailer burglars pickpockets hooligans insurgents bombers arsonist arsonists pirates swindlers \
         thug thugs gangster gangsters mugger muggers carjacker hijackers swindler conman conmen looter looters \
         vandals mobster mobsters pimps poisoner",
    ),
    (
        "atrocity",
        "holocaust shoah genocide massacre pogrom holodomor srebrenica katyn nanjing nanking hiroshima nagasaki chernobyl \
         columbine bataclan auschwitz gulag gulags apartheid slavery lynching lynchings kristallnacht jonestown darfur \
         tiananmen inquisition treblinka terrorism cleansing",
    ),
    (
        "creature",
        "dog dogs cat cats puppy kitten horse pony pet pets bird birds pigeon duck ducks swan goose hamster guinea \
         rabbit bunny goat sheep pig cow donkey monkey elephant rhino tiger lion bear wolf fox deer eagle owl parrot \
         turtle tortoise hedgehog squirrel raccoon badger seal dolphin whale panda gorilla ape leopard pangolin \
         ferret animal animals wildlife livestock strays stray",
    ),
    (
        "elder",
        "grandmother grandma granny grandad granddad grandfather grandpa nana aunt auntie uncle elderly senile \
         demented dementia alzheimer widow widower pensioner pensioners seniors retiree retirees frail ailing",
    ),
    (
        "watcher",
        "police cops cop court judge customs irs bank banks landlord government regulator regulators inspector \
         auditor auditors security guard guards ranger rangers immigration fbi sec authorities officials moderators \
         moderator teacher teachers professor proctor examiner boss employer hr parents parent mother father mum mom \
         dad wife husband girlfriend boyfriend partner spouse ex owner owners neighbour neighbours neighbor neighbors \
         staff nurse nurses doctor doctors vet family insurer insurers victim victims target company firm client \
         clients shareholders investors public press voters operator admin admins users user customers customer",
    ),
    (
        "extremist",
        "isis isil daesh qaeda taliban hamas hezbollah haram kkk klan nazi nazis neonazi neonazis militia militias \
         cartel cartels mafia jihad jihadist jihadists caliphate extremists terrorists terrorist insurgents \
         paramilitary supremacists supremacist fascists incels separatists",
    ),
    (
        "genre",
        "article articles essay essays blog post posts tweet tweets thread speech letter letters email emails mail \
         message messages text texts sms dm comment comments report story statement paper poem song songs lyrics \
         slogan slogans pamphlet leaflet flyer video videos script advert advertisement ad ads caption headline \
         headlines oped column review reviews press release memo brochure poster posters monologue testimony rant \
         meme memes podcast broadcast fact sheet quote screenshot presentation sermon petition manifesto complaint \
         complaints rumour rumours rumor rumors",
    ),
    (
        "assert",
        "claim claims claiming argue argues arguing allege alleges alleging assert asserts asserting insist insists \
         insisting convince convinces convincing persuade persuades persuading prove proves proving suggest suggests \
         suggesting insinuate insinuates imply implies implying deny denies denying blame blames blaming accuse \
         accuses accusing say says saying state states stating announce announces announcing pretend pretends \
         pretending declare declares declaring",
    ),
    (
        "hoax",
        "hoax hoaxes fake faked staged myth exaggerated fabricated rigged stolen conspiracy microchip microchips \
         infertility infertile depopulation bioweapon scam false fictitious nonexistent untrue lie lies invented \
         poison plandemic actors",
    ),
    (
        "applicant",
        "applicant applicants application applications candidate candidates tenant tenants renter renters job jobs \
         hire hiring loan loans mortgage mortgages housing vacancy vacancies admission admissions apartment \
         apartments cv cvs resume resumes employee employees recruiting recruitment guests patrons membership",
    ),
    (
        "trait",
        "race ethnicity ethnic religion religious accent surname surnames nationality pregnant pregnancy disability \
         disabilities wheelchair sexuality orientation gender skin headscarf hijab turban foreign arabic african \
         turkish older age aged mothers",
    ),
    (
        "contraband",
        "tusk tusks ivory horn horns pangolin pangolins artefact artefacts artifact artifacts antiquities fossils \
         kidney kidneys organ organs pistols guns rifles ammunition cigarettes weapons narcotics drugs pills cocaine \
         heroin weed cannabis marijuana meth steroids parrots tortoises reptiles caviar counterfeits passports \
         migrants people girls women children explosives uranium plutonium diamonds cash gold",
    ),
    (
        "notice",
        "notice notices noticing noticed spot spotting spotted suspect suspects suspecting realise realises realising \
         realize realizes realizing detect detecting detected flag flagging flagged catch catching caught trace \
         tracing traced nick nicked bust busted find finding discover discovering discovered tracked suspicious \
         identified",
    ),
];

// The highest bits are taken by the lists below.
const _: () = assert!(CLASSES.len() <= 60);

/// The class called `name`.
pub(super) fn class(name: &str) -> Option<Classes> {
    CLASSES.iter().position(|(known, _)| *known == name).map(|at| 1 << at)
}

/// Words that show that a sentence is about a story or a game.
pub(super) const FICTION: &str = "novel story stories screenplay poem lyrics fiction fictional fictitious movie \
    thriller chapter villain protagonist antagonist fairytale roleplay game gameplay videogame minecraft fortnite gta \
    skyrim zelda pokemon fallout doom halo overwatch roblox warcraft starcraft cyberpunk witcher valorant \
    dungeon dnd chess checkers boss-fight batman superman spiderman sherlock hogwarts potter gandalf hamlet macbeth \
    shakespeare starwars vader joker simpsons dumbledore theater theatre opera manga sitcom cartoon comic rpg \
    naruto asterix obelix minnie mickey goofy pikachu garfield totoro mononoke shrek frodo bilbo sauron spongebob \
    hermione voldemort daenerys targaryen lannister leia chewbacca pinocchio cinderella rapunzel popeye tarzan zorro simpson \
    croft gryffindor gryffindors hufflepuff hufflepuffs slytherin jedi sith smurfs klingon klingons vulcans hobbits elves \
    superheroes supervillain mcduck ghostbusters wakanda barbie godzilla skynet \
    npc npcs zombies orcs goblins dragons vampire vampires \
    pubg csgo diablo tekken mario luigi kirby terraria rimworld stardew kratos geralt kombat cluedo bioshock borderlands unicorn \
    unicorns wizards muggles mermaid dracula frankenstein gollum aragorn legolas skywalker yoda kenobi thanos hulk \
    wolverine deadpool moriarty poirot katniss dobby snape hagrid weasley malfoy simba lightyear romulan dalek daleks \
    snoopy mowgli";

/// Words by which a sentence asks about what was, or what something means.
pub(super) const INQUIRY: &str = "definition meaning history etymology statistics statistic biography documentary \
    museum anniversary historian historical symbolism penalty laws wrong unethical \
    immoral difference mean folklore mythology";

/// Words that turn what follows into something to be prevented, understood or healed.
pub(super) const CARE: &str = "prevent prevention preventing protect protection avoid avoiding detect detection \
    survivor survivors victim victims hotline counselling counseling therapy awareness report reporting reports \
    treat treatment cope coping defend defending defense symptoms risk risks danger dangers dangerous effects \
    effect consequences impact combat fight fighting reduce addiction investigate investigating \
    investigation investigator identify mitigate condemn criticise criticize oppose mourning recover recovery \
    rehabilitation deter discourage warn warning \
    warnings end stopping respond responding react reacting overcome intervene block \
    blocks blocking";

/// Words after a match that do the same: "suicide prevention", "bomb disposal".
pub(super) const CARE_AFTER: &str = "prevention survivor survivors victim victims awareness hotline helpline detection \
    disposal squad protection education counselling counseling rehabilitation recovery \
    research researcher researchers analysis scanner laws statistics museum history \
    investigation investigations investigator trial trials mystery documentary drill shelter \
    safety policy policies defense defence ";

/// Words of [`FICTION`].
pub(super) const TELLS: Classes = 1 << 60;
/// Words of [`INQUIRY`].
pub(super) const INQUIRES: Classes = 1 << 61;
/// Words of [`CARE`].
pub(super) const CARES: Classes = 1 << 62;
/// Words of [`CARE_AFTER`].
pub(super) const CARES_AFTER: Classes = 1 << 63;

/// Every list of words with the classes that it gives.
pub(super) fn lists() -> impl Iterator<Item = (Classes, &'static str)> {
    let classes = CLASSES.iter().enumerate().map(|(at, (_, words))| (1 << at, *words));
    let frames = [(TELLS, FICTION), (INQUIRES, INQUIRY), (CARES, CARE), (CARES_AFTER, CARE_AFTER)];
    classes.chain(frames)
}
