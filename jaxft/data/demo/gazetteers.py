"""Lists the names of the synthetic corpus `demo:ner`; a name in several lists is ambiguous on purpose."""


def split_names(text: str) -> list[str]:
    """Splits one of the lists below, which are separated by commas and span several lines, into names."""
    return [name.strip() for name in text.replace("\n", " ").split(",")]


FIRST = """Anna, Ben, Carla, Daniel, Elena, Farid, Grace, Hugo, Ines, Jonas, Karim, Lena, Marco, Nadia,
Oscar, Petra, Quentin, Rosa, Samir, Tessa, Umar, Vera, William, Xenia, Yusuf, Zoe, Amina, Boris, Celia,
Dmitri, Esther, Felix, Greta, Hassan, Irene, Julia, Kofi, Laura, Miguel, Naomi, Olga, Pavel, Ruth, Stefan,
Tomas, Ursula, Victor, Wanda, Akira, Bea, Chidi, Dora, Emeka, Fatima, Gareth, Hiro, Isla, Jamal, Keiko,
Liam, Mei, Noor, Owen, Priya, Rahul, Sana, Takeshi, Uma, Vikram, Wen, Yara, Zainab, Paris, Georgia, Sydney,
Chelsea, Florence, Austin, Jordan, Victoria, Orlando, Sophia, Will, Mark, Rich, Rose, Hope, Frank, Grant,
Bill, Dawn, Guy, Drew, Ray, April, June, Art, Jack, Joy, Ivy"""

LAST = """Abbott, Adeyemi, Albrecht, Almeida, Ansari, Arkwright, Aziz, Bakker, Banerjee, Barlow, Becker,
Bergstrom, Bianchi, Blackwood, Bouchard, Brandt, Burgess, Calloway, Carvalho, Castellano, Chaudhry, Chen,
Coleman, Corrigan, Dasgupta, Delacroix, Demir, Diallo, Dlamini, Donnelly, Drummond, Eriksen, Escobar,
Fairweather, Fernandes, Fischer, Flanagan, Fontaine, Gallagher, Garrido, Gupta, Haddad, Halvorsen,
Hargreaves, Hashimoto, Hernandez, Hoffmann, Holm, Horvath, Ibrahim, Ivanova, Jankowski, Jimenez, Kapoor,
Karlsson, Kaya, Keller, Khalil, Kimura, Kowalski, Kovac, Laurent, Lindqvist, Lombardi, Lund, MacAllister,
Makinen, Malik, Marchetti, Mbeki, Mendoza, Moreau, Morozov, Mwangi, Nakamura, Navarro, Ndiaye, Novak, Nwosu,
O'Brien, O'Connell, Okafor, Olsen, Ortega, Papadakis, Park, Pellegrini, Petrov, Pham, Pradhan, Quiroga,
Rahman, Ramirez, Rasmussen, Ricci, Romero, Rossi, Saito, Salazar, Schneider, Serrano, Shapiro, Silva,
Sokolov, Stavros, Sullivan, Svensson, Takahashi, Tanaka, Teixeira, Thackeray, Thornbury, Tran, Vandenberg,
Varga, Vasquez, Venter, Virtanen, Volkov, Wagner, Whitcombe, Wilkinson, Yamada, Yilmaz, Zeller, Zhang,
Zielinski, van Dijk, de Souza, von Hartmann, Le Goff, al-Rashid, Smith-Barnes, Cook, Baker, Rice, Banks,
Bush, May, Brown, Green, Field, Price, Stone, Bell, Page, Young, Long, Speed, Marsh, Ford, Lincoln,
Washington, Jordan, Houston, Dallas, Jackson, Hamilton, Wellington, Nelson, Kent, York, Preston, Lancaster,
London, Berlin, Santos, Porsche, Disney, Hilton, Morgan, Ferrari, Dell, Stirling, Burnley, Bolton, Sutton,
Santiago, Cordoba, Mars, Cleveland, Montgomery, Madison, Warwick, Windsor, Derby, Milan, Valencia, Siemens,
Bosch, Benz, Hayes, Barnes, Chelsea"""

CITY = """Aarhus, Abuja, Accra, Adelaide, Aleppo, Almaty, Ankara, Antwerp, Asuncion, Athens, Baku, Bandung,
Bangkok, Basel, Beirut, Belfast, Bergen, Bilbao, Bogota, Bordeaux, Bremen, Brisbane, Bristol, Bucharest,
Budapest, Busan, Cairo, Calgary, Cape Town, Caracas, Cardiff, Chennai, Chicago, Colombo, Copenhagen, Dakar,
Damascus, Dar es Salaam, Delhi, Denver, Detroit, Dhaka, Dublin, Durban, Eindhoven, Frankfurt, Gdansk,
Geneva, Ghent, Glasgow, Gothenburg, Graz, Guadalajara, Hamburg, Hanoi, Harare, Havana, Helsinki, Ho Chi Minh
City, Hyderabad, Istanbul, Izmir, Jakarta, Karachi, Khartoum, Kobe, Krakow, Lagos, Lahore, La Paz, Leipzig,
Lima, Lisbon, Ljubljana, Los Angeles, Lyon, Manila, Marseille, Melbourne, Minsk, Mombasa, Montevideo,
Montreal, Mumbai, Munich, Nairobi, Nantes, Naples, New Delhi, Odessa, Osaka, Oslo, Palermo, Perth, Porto,
Prague, Quito, Rabat, Recife, Reykjavik, Riga, Rotterdam, Salzburg, San Salvador, Sarajevo, Seattle, Seoul,
Seville, Shanghai, Sofia, Stuttgart, Tallinn, Tbilisi, Tirana, Toronto, Trieste, Tunis, Turin, Utrecht,
Vancouver, Vilnius, Warsaw, Yerevan, Zagreb, Zurich, Paris, Washington, Lincoln, Houston, Dallas, Jackson,
Hamilton, Wellington, Nelson, York, Preston, Lancaster, London, Berlin, Stirling, Burnley, Bolton, Santiago,
Cordoba, Cleveland, Montgomery, Madison, Warwick, Windsor, Derby, Milan, Valencia, Florence, Sydney, Austin,
Orlando, Nice, Reading, Mobile, Cork, Split, Tours, Bath, Phoenix, Barcelona, Liverpool, Bergamo"""

# Country, adjective.
COUNTRY = """Albania Albanian, Algeria Algerian, Angola Angolan, Argentina Argentine, Armenia Armenian,
Australia Australian, Austria Austrian, Bangladesh Bangladeshi, Belgium Belgian, Bolivia Bolivian,
Brazil Brazilian, Bulgaria Bulgarian, Cambodia Cambodian, Cameroon Cameroonian, Canada Canadian,
Chile Chilean, China Chinese, Colombia Colombian, Croatia Croatian, Cuba Cuban, Denmark Danish,
Ecuador Ecuadorean, Egypt Egyptian, Estonia Estonian, Ethiopia Ethiopian, Finland Finnish, France French,
Germany German, Ghana Ghanaian, Greece Greek, Guatemala Guatemalan, Hungary Hungarian, Iceland Icelandic,
India Indian, Indonesia Indonesian, Iran Iranian, Ireland Irish, Israel Israeli, Italy Italian,
Jamaica Jamaican, Japan Japanese, Kenya Kenyan, Latvia Latvian, Lebanon Lebanese, Libya Libyan,
Lithuania Lithuanian, Malaysia Malaysian, Mexico Mexican, Moldova Moldovan, Mongolia Mongolian,
Morocco Moroccan, Nepal Nepalese, Nigeria Nigerian, Norway Norwegian, Pakistan Pakistani,
Paraguay Paraguayan, Peru Peruvian, Poland Polish, Portugal Portuguese, Qatar Qatari, Romania Romanian,
Russia Russian, Senegal Senegalese, Serbia Serbian, Slovakia Slovak, Slovenia Slovene, Somalia Somali,
Spain Spanish, Sweden Swedish, Syria Syrian, Tanzania Tanzanian, Thailand Thai, Tunisia Tunisian,
Turkey Turkish, Uganda Ugandan, Ukraine Ukrainian, Uruguay Uruguayan, Venezuela Venezuelan,
Vietnam Vietnamese, Yemen Yemeni, Zambia Zambian, Zimbabwe Zimbabwean, Jordan Jordanian, Georgia Georgian,
Chad Chadian"""

# Rivers, mountains, seas, regions: places that are not towns.
PLACE = """Amazon, Danube, Rhine, Mekong, Zambezi, Volga, Loire, Orinoco, Ganges, Niger Delta, Lake
Victoria, Lake Geneva, Lake Baikal, Black Sea, Caspian Sea, Red Sea, Baltic Sea, Gulf of Aden, Bay of
Bengal, Strait of Hormuz, Kimberley, Andes, Alps, Carpathians, Caucasus, Pyrenees, Himalayas, Sahel,
Patagonia, Siberia, Bavaria, Tuscany, Catalonia, Andalusia, Normandy, Brittany, Saxony, Anatolia, Kashmir,
Punjab, Kerala, Queensland, Tasmania, Ontario, Quebec, Alberta, Yukon, Oaxaca, Chiapas, Transylvania,
Silesia, Galicia, Lombardy, Sicily, Sardinia, Corsica, Crete, Madeira, Zanzibar, Sumatra, Borneo, Hokkaido,
Kamchatka, Mars, Saturn, Kent, Victoria, Virginia, Orange, Cornwall, Yorkshire, Ulster, Galway, Texas,
Nevada, Utah, Kansas, Oregon, Idaho, Middle East, Horn of Africa, West Bank, Central Asia, Western Sahara,
Mount Etna, Mount Kenya, Table Mountain, North Sea, Great Barrier Reef"""

DISTRICT = """Chelsea, Fulham, Brixton, Harlem, Montmartre, Kreuzberg, Trastevere, Bronx, Soho, Queens,
Notting Hill, Copacabana, Shinjuku, Gion, Alfama, Gracia, Kadikoy, Zamalek, Soweto, Bandra, Pudong, Everton,
Anfield, Wimbledon, Hampstead, Tottenham, Brentford, Sutton, Old Town, Left Bank, Ipanema, Wall Street,
Fleet Street, Downing Street"""

COMPANY = """Amazon, Ford, Porsche, Disney, Hilton, Morgan, Ferrari, Dell, Siemens, Bosch, Apple, Shell,
Orange, Visa, Target, Gap, Mars, Oracle, Sprint, Boots, Next, Caterpillar, Subway, Puma, Jaguar, Phoenix,
Galaxy Air, Kelvaro, Brightwell, Norvane, Tessaly Foods, Orbitel, Quantex, Halden Group, Marlowe Energy,
Silverpine, Northgate Capital, Ardent Bio, Vantiva Labs, Corvane, Pelican Freight, Solaris Motors, Redmark,
Zentrum Bank, Ostara Health, Kitefin, Lumenor, Trident Shipping, Bluepeak Mining, Cobalt Partners, Ferrox
Steel, Granite Trust, Helix Pharma, Ironbridge, Juniper Rail, Kestrel Airways, Lattice Systems, Meridian
Oil, Nimbus Software, Opaline, Palisade Insurance, Quillon, Rookery Press, Sablecorp, Tamarind Hotels, Umbra
Semiconductors, Verdant Farms, Westmark, Xylo Paper, Yarrow Telecom, Zephyr Wind, Anvil Works, Birchall,
Cedarline, Duskin, Elmhurst Dairy, Foxglove, Gantry Cranes, Hearthside, Inkwell, Jasperware, Keystone
Copper, Longacre, Millrace, Nettle Clothing, Oxbow Grain, Pinnacle Air, Quayside Ports, Rivet, Stonecrop,
Tidewater Gas, Upland Water, Vellum Books, Windlass, Yewtree, Zircon Chips, Atlas, Beacon, Compass Mutual"""

# Football, basketball and cricket teams with a name of their own.
CLUB = """Chelsea, Arsenal, Everton, Fulham, Brentford, Barcelona, Liverpool, Valencia, Milan, Juventus,
Benfica, Ajax, Celtic, Rangers, Santos, Flamengo, Boca Juniors, River Plate, Galatasaray, Dynamo Kyiv, Red
Star, Young Boys, Aston Villa, Sparta, Feyenoord, Atletico Mineiro, Real Sociedad, Borussia Dortmund,
Bayern, Inter, Lazio, Fiorentina, Sampdoria, Anderlecht, Olympiakos, Panathinaikos, Partizan, Hajduk,
Slavia, Legia, Shakhtar, Zenit, Spartak, Lokomotiv, Al Ahly, Zamalek, Kaizer Chiefs, Orlando Pirates,
Esperance, Raja, Wydad, Urawa Reds, Kashima Antlers, Lakers, Celtics, Bulls, Knicks, Spurs, Heat, Magic,
Jazz, Nets, Suns, Rockets, Thunder, Wizards, Yankees, Cubs, Giants, Dodgers, Padres, Tigers, Saints, Bears,
Bills, Jets, Eagles, Steelers, Preston, Bolton, Burnley, Reading, Derby, Wimbledon"""

# Kinds of team, office and school that are named after a town.
CLUB_OF = ["{} United", "{} City", "{} Rovers", "FC {}", "{} Athletic", "Sporting {}", "{}", "{}", "{}"]
OFFICE_OF = [
    "{} City Council",
    "Bank of {}",
    "{} Stock Exchange",
    "{} Police Department",
    "{} Port Authority",
    "{} Symphony Orchestra",
    "{} Chamber of Commerce",
    "{} Zoo",
]
SCHOOL_OF = ["University of {}", "{} University", "{} Institute of Technology", "{} General Hospital"]
STATE_OF = [
    "Central Bank of {}",
    "{} Airlines",
    "Supreme Court of {}",
    "{} Football Federation",
    "Workers ' Party of {}",
]
FAMILY_FIRM = ["{} & Sons", "{} Brothers", "{} Foundation", "{} Holdings", "{} , {} & Co", "{} Inc"]
FAMILY_PLACE = ["{} Street", "{} Stadium", "{} Airport", "{} Island", "{} County", "Mount {}", "{} Bridge"]
FAMILY_MISC = ["{} Prize", "{} Report", "{} Trophy", "{} Act"]
TOWN_MISC = ["{} Marathon", "{} Open", "{} Film Festival", "Treaty of {}", "{} Book Fair", "{} Accords"]
STATE_MISC = ["{} Grand Prix", "{} Open", "{} Cup"]

# Subject, for a ministry, an agency, a union or an institute.
SUBJECT = """Finance, Health, Education, Defence, Transport, Agriculture, Energy, Justice, Labour, Trade,
Fisheries, Tourism, Housing, Culture, Interior, Environment, Mining, Forestry, Water, Aviation, Food Safety,
Space, Statistics, Migration, Consumer Affairs, Science, Railways, Telecommunications, Youth, Veterans
Affairs"""
SUBJECT_OF = [
    "Ministry of {}",
    "Department of {}",
    "{} Ministry",
    "National {} Agency",
    "Institute for {}",
    "{} Committee",
]

PARTY = """Liberal Democrats, Green Alliance, People 's Party, Civic Union, National Front, New Dawn, Left
Bloc, Christian Democrats, Farmers ' League, Progress Party, Freedom Movement, Social Reform Party,
Homeland, Moderates, Red Flag, Centre Party, Justice Party, Republican Guard, Senate, Congress, Parliament,
United Nations, European Union, African Union, World Bank, Red Cross, Greenpeace, Interpol, Hezbollah,
Amnesty International, Vatican"""

PAPER = """Daily Courier, Morning Herald, Evening Star, Weekly Mirror, Sunday Ledger, Daily Standard, Le
Phare, Die Woche, El Faro, Il Corriere, Financial Observer, Morning Post, National Inquirer, The Sentinel,
Star, Sun, Globe, Times, People, Today, Channel 8, Radio Delta, Sky Report, Metro, Tribune, Chronicle"""

EVENT = """World Cup, Olympic Games, Champions League, Davis Cup, Ryder Cup, Tour de France, Super Bowl, Six
Nations, Wimbledon, Ashes, Commonwealth Games, Copa America, Premier League, Serie A, Bundesliga, Stanley
Cup, World Series, Kentucky Derby, Giro, Masters, Europa League, Gold Cup, Christmas, Easter, Ramadan,
Diwali, Thanksgiving, Cold War, First World War, Gulf War, Carnival, Nobel Prize, Oscars, Grammys, Booker
Prize, Golden Bear, Pulitzer Prize, Passover, Islam, Christianity, Buddhism, Catholic, Muslim, Protestant,
Jewish, Hindu, Sikh, Arab, Kurdish, Basque, Flemish, Welsh, Scottish, Marxist, Nazi, Brexit, Renaissance,
Hanukkah, Euro, Windows, Android, Bible, Koran, Internet"""

WORK_HEAD = """Harbour, Orchard, Winter, Lantern, Bridge, Widow, Garden, Promise, Shore, Crossing, Letter,
Clockmaker, Daughter, River, Night, Silence, Fire, Window, Island, Map, Mirror, Road, Storm, Thief, Sparrow,
Kingdom, Machine, Wedding, Stranger, Summer"""
WORK = [
    "The {adj} {}",
    "The {}",
    "A {} in {city}",
    "{adj} {}",
    "Beyond the {}",
    "The {} of {last}",
    "{last} 's {}",
    "No {} for {first}",
]
WORK_ADJECTIVE = (
    "Last, Silent, Broken, Lonely, Second, Hidden, Red, Empty, Distant, Golden, Quiet, Burning".split(", ")
)

PRODUCT = """Kestrel, Falcon, Corvo, Ranger, Mustang, Astra, Polo, Beetle, Transit, Fiesta, Focus, Civic,
Tornado, Galaxy, Pixel, Echo, Kindle, Surface, Lightning, Discovery, Voyager, Soyuz, Ariane, Patriot, Scud,
Hawk, Tomahawk, Cobra, Zafira, Viking, Pioneer, Aurora, Nova, Titan, Apollo, Lincoln, Saturn, Jaguar,
Phoenix, Madison"""
