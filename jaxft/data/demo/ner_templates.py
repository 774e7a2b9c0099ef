"""Lists the sentence templates of the synthetic corpus `demo:ner`.

A slot `{slot}` is filled with a value, and `[a|b]` is replaced by one alternative. Each line is a template, but an
indented line continues the line above.
"""

DATELINE = "[{city}|{city}|{city} , {country}] , {month} {n31} [-|--|:]"

BUSINESS = """
shares in {company} [rose|fell|jumped|slid|climbed|dropped] {n9} percent [on {day}|after the {demonym}
    regulator cleared the deal|in early trading in {city}|] .
{company} said on {day} it would [cut|create|move] {n900} jobs [in {city}|in {country}|at its plant near
    {city}|across {place}|] .
{company} [bought|sold|took over|is in talks to buy] {company} for [about|more than|up to|] {n90}
    million [dollars|euros|pounds] .
analysts at {company} expect the {demonym} economy to [shrink|grow|stall] next year .
{person} , chief executive of {company} , [told reporters|said|warned] that prices would [rise|fall|hold] .
{last} , who [founded|left|ran] {company} in {year} , [declined to comment|holds {n9} percent of the
    shares|could not be reached] .
{person} [of|at] {company} called the result " [better than feared|a nasty surprise|no cause for alarm] " .
the {agency} [fined|sued|cleared|is investigating] {company} over [sales of|claims about|faults in] its
    {product} .
{company} unveiled the {product} in {city} , and {last} drove it on to the stage .
a {company} [lorry|tanker|depot|warehouse] caught fire [outside|near|in] {city} on {day} , [police
    said|with no injuries] .
{company} and {last} have settled out of court .
the {agency} left interest rates unchanged at {n9} percent , as [traders|economists|{last}] had expected .
{agency} data showed that exports [to {country}|to {country} and {country}|] [rose|fell] {n9} percent in
    {month} .
wheat from {country} [traded|sold] at {n300} dollars a tonne , with buyers in {country} paying more .
oil [jumped|slipped] after a pipeline [across {place}|near {city}|through {country}] was [shut|reopened] .
the {product} has outsold the {product} in {country} since {month} .
{company} 's {product} [will be built|is assembled|goes on sale] in {country} [next year|from {month}|] .
{last} leaves {company} to join {company} in {city} .
{company} owes {company} {n90} million dollars , [a court in {city} heard|according to {paper}] .
{person} was named [chairman|finance director|head of research] of {company} , replacing {person} .
investors in {city} shrugged off the news from {city} .
{company} workers in {city} walked out over [pay|night shifts|the {last} plan] .
the {agency} ruled that {company} had misled buyers of the {product} .
{n90} shops [run|owned] by {company} will [close|reopen] by {month} , {paper} reported .
orange growers in {place} lost half the crop , and apple prices doubled .
{company} , {company} and {company} all bid for the port of {city} .
"""

SPORT = """
{club} [beat|thrashed|lost to|drew with|held] {club} {n4}-{n4} [on {day}|in {city}|in front of {n900}
    fans|] .
{country} [beat|lost to|drew with|knocked out] {country} {n4}-{n4} in the {event} .
{last} scored [twice|the winner|a late equaliser|from a free kick] as {club} [won|lost|drew] [at home|in
    {city}|away to {club}] .
{person} ( {country} ) beat {person} ( {country} ) {n6}-{n6} {n6}-{n6}
{person} , {country} , {n90}.{n90} seconds
{demonym} [striker|keeper|captain|winger] {person} has [joined|signed for|left|rejoined] {club} [from
    {club}|for {n90} million euros|on loan|] .
{club} {n4} {club} {n4}
{club} [coach|manager] {person} [praised|dropped|defended] {last} [after the defeat|before the {event}|] .
{person} of {country} won the {event} in {city} [by {n9} seconds|for the second time|] .
{last} is out of the {event} with a [knee|hamstring|shoulder] injury , {club} said on {day} .
the {event} moves to {city} next [year|week] after {n9} [seasons|days] in {country} .
{city} will [host|stage] the {event} in {year} , the {agency} [announced|said] .
{demonym} [cyclist|sprinter|swimmer|driver] {person} failed a test at the {event} .
{person} [rode|drove|sailed] across {place} in {n9} days [to raise money for the {agency}|] .
fans of {club} and {club} clashed in {city} [before|after] the {event} .
{last} beat {last} in straight sets , then lost to {last} in the final .
{club} have not won in {city} since {year} .
{club} [travel|go] to {club} on {day} without {last} .
{country} named [{person} and {person}|{person}] in the squad to face {country} .
the {demonym} team arrived in {city} without {n4} of its players .
{last} bowled {n90} overs before {country} declared at {n300} for {n9} .
tickets for {club} against {club} sold out [in {n9} minutes|] .
" we were the better side , " {last} said after [{club} won|{country} won|the final whistle] .
standings after {n9} games : {club} {n90} points , {club} {n90} , {club} {n90}
{city} has two sides , but only {club} fill their ground .
a relay of {n9} swimmers crossed {place} in {n90} hours .
{paper} says {last} will leave {club} for {club} .
"""

POLITICS = """
{demonym} [President|Prime Minister|Foreign Minister|Chancellor] {person} [arrived in|left|flew to|cut
    short a visit to] {city} on {day} .
{country} [recalled|expelled|summoned] the {demonym} ambassador [on {day}|over remarks by {last}|] .
{country} and {country} signed [a pact|the {event}|an accord] on fishing in {place} .
{person} [won|lost|conceded] the vote in {place} [by {n900} votes|to {person}|] .
{agency} [rejected|approved|delayed] a bill that would ban {product} sales .
the {agency} said {n90} people were [killed|hurt|arrested] in [{city}|{place}|clashes near {city}] .
{city} [rejected|welcomed|dismissed] the offer made by {city} as " [empty|generous|late] " .
{last} [accused|urged|thanked] {last} in a speech to {agency} .
{agency} leader {person} was [jailed|freed|questioned] in {city} .
{demonym} troops [crossed|withdrew from|shelled] {place} [at dawn|on {day}|] .
the {party} [won|lost] {n90} seats , while {party} took {n90} .
" {country} will not wait , " {last} told {paper} .
a spokesman for [{last}|{agency}|{company}|{city}] denied the report .
{last} met {last} at the {demonym} embassy in {city} .
[protesters|farmers|students] from {place} marched on {city} [to demand jobs|against the {agency}|] .
the {event} of {year} left {country} without a port .
the mayor of {city} , {person} , quit after {paper} printed the letters .
{demonym} and {demonym} officials will meet in {city} next week .
{person} , {n90} , a [lawyer|farmer|teacher] from {city} , leads the {party} .
{agency} [sent|flew] food to {n900} families in {place} .
rebels held the road between {city} and {city} for {n9} days .
the {last} government fell in {year} after {agency} pulled out .
{last} said that {country} , not {country} , had broken the treaty .
police found {n90} kilos of heroin in a {product} at the {country} border .
the {demonym} minority in {place} speaks {demonym} at home .
{agency} and {agency} disagree about who pays .
{city} , {country} 's second city , has been under curfew since {day} .
a court in {city} sentenced {person} to {n90} years for spying for {country} .
"""

WEATHER = """
[heavy rain|thick fog|strong wind|snow] closed [schools|the airport|all roads] in {city} [on {day}|for
    the {ordinal} day|] .
a storm [moved|swept] from {place} towards {country} , [leaving {n900} homes dark|the {agency} said] .
the {agency} warned of floods along {place} .
temperatures in {city} [reached|fell to|hit] {n40} degrees on {day} , a record for {month} .
it will be dry in {place} and wet in {city} and {city} .
the {place} burst its banks near {city} , and {n900} people fled .
a hurricane [weakened|turned north] before it reached {country} .
farmers in {place} have had no rain since {month} .
snow fell on {place} for the first time since {year} .
an earthquake of magnitude {n9} [shook|struck] {place} , {n90} km from {city} .
{person} of the {agency} said the drought in {country} was the worst since {year} .
{company} cut power to {city} as the wind rose .
a ferry from {city} to {city} turned back in {place} .
lightning struck {n9} walkers on {place} ; {last} , {n90} , is in hospital .
the drought pushed wolves down from {place} into {city} .
{paper} forecasters see gales over {place} by {day} .
"""

CULTURE = """
{person} will [direct|star in|produce] " {work} " , [a film about {person}|shot in {city}|based on a
    novel by {person}] .
" {work} " [opened|closed] in {city} on {day} to [poor|warm|mixed] reviews .
{person} won the {event} for " {work} " .
the {demonym} [novelist|painter|pianist|actor] {person} [has died|died in {city}] at {n90} .
{work} , {last} 's {ordinal} novel , is set in {place} [in {year}|during the {event}|] .
a museum in {city} [bought|returned|lost] a painting by {last} [worth {n90} million dollars|stolen in
    {year}|] .
{person} plays {last} in {work} .
the {event} [opens|closes] on {day} with {work} by {person} .
{paper} called {work} " the film of the year " .
{school} [gave|denied] {person} a chair in [music|history|law] .
scientists at {school} [found|named] a new frog in {place} .
{person} , who taught at {school} , wrote about {country} for {paper} .
the exhibition moves from {city} to {city} in {month} .
a choir of {n90} sang in {demonym} and {demonym} at the {event} .
{last} sang , {last} danced and the hall in {city} was full .
{company} paid {n90} million dollars for the rights to {work} .
{demonym} cooking is in fashion in {city} , {last} writes in {paper} .
the {event} was [banned|shown] in {country} until {year} .
{person} reads {last} 's letters on {paper} tonight .
the cook in {work} is played by {person} , a baker from {city} .
{school} will teach {demonym} again from {month} .
the {last} of " {work} " is nothing like the {last} of the book .
"""

GENERAL = """
{any} [said|says|knows|insisted] it was [too early|too late|ready] to talk about [that|money|next year] .
nobody [expected|heard|wanted] much [of|from] {any} .
all eyes are on {any} [this week|now|again] .
{any} has been here before , and so has {any} .
{any} , {any} and {any} were mentioned [most|in the report] .
it was a [bad|good|quiet] week for {any} .
what happens next depends on {any} .
{any} refused .
the {any} affair is far from over .
there is more to {any} than that , {last} said .
{person} lives in {city} with {n9} dogs .
{last} of {city} , {last} of {company} and {last} of {club} shared the prize .
{company} in {city} employs {n900} people , {company} in {city} far fewer .
{last} flew from {city} to {city} with {company} .
for {last} , {city} is home ; for {last} , it is work .
{city} [police|doctors|teachers|councillors] say the {last} case is closed .
{person} told {paper} that {company} had offered {last} a job in {city} .
{country} [banned|ordered|copied] the {product} in {year} .
"""

# Templates without entities, often with words that are names in other templates.
PLAIN = """
profits [missed|beat|met] the [target|forecast|guidance] for the {ordinal} [year|quarter|month] in a row .
the price of rice [doubled|rose {n9} percent|hit a record] and bakers put up the price of
    [bread|rolls|cakes] by {n9} percent .
{n9} players were [sent off|booked|hurt] and the match ended in [a fight in the tunnel|silence|a draw] .
he needed a sprint in the last {n90} metres to take the [bronze|silver|title] .
the referee added {n9} minutes , and it was [long enough|not enough|too much] .
voters go to the polls in {month} , and turnout may be [low|high|a problem] .
a [bush|forest|moor] fire and a row over visa rules filled the [rest of the sitting|day|front pages] .
outlook : [cloudy|fair|misty] , with [sunny spells|showers|light winds] and a high of {n40} degrees .
a cold front brings [showers|hail|sleet] in the morning and a green , mild [afternoon|evening] .
the heat and the sun drove people indoors , and [trains ran late|parks were empty|ice sold out] .
no [frost|snow|rain] is expected before [the end of {month}|the weekend|next week] .
a good story needs no more than [a page|{n9} pages|one voice] , the [teacher|editor|judge] said .
the [play|opera|film] runs for {n9} hours [without an interval|with {n9} intervals] .
reading to young children for {n9} minutes a day helps them , a [study|survey|report] says .
both sides [refused|agreed] to [talk|meet|wait] [on {day}|before {month}|again] .
{n90} people [were|are] [missing|in hospital|without water] , [police|officials|doctors] said on {day} .
he said he had [seen|read|bought] nothing and [heard|signed|sold] nothing .
" it is time to [split|pay|tear up] the bill , " [she|he] said , and [left|sat down|smiled] .
the market was quiet and volumes were thin ahead of the [holiday|weekend|vote|report] .
mobile phones were [collected|forbidden|checked] at the [door|gate|desk] .
it may be nice to have a target , but people want [results|answers|money] today .
the number of [calls|cases|visits|thefts] rose from {n300} to {n900} in {n9} [months|weeks|years] .
[details|figures|names|prices] were not [available|given|released] [on {day}|at once|] .
they had been on the road for {n9} days and {n9} nights .
the bell rang , and a stone broke the window of the [bath house|school|bakery] .
no one was [hurt|blamed|told|at home] [on {day}|this time|] .
the subway was closed and the times of the [last|first|night] trains were wrong .
a new [law|tax|rule|timetable] takes effect on {day} .
the shell was found in a field near the long wall by a [boy|girl] of {n9} .
he looked like a young king in boots too large for him , [she|one critic|his aunt] wrote .
jazz was played , bills were paid , and there was no magic in [it|the evening] .
{n9} of the {n90} [cases|charges|claims] were dropped for want of [evidence|time|witnesses] .
[orange|lemon|apple] growers lost [half|most|a third] of the crop [to frost|to flies|last {month}] .
the gap between [rich and poor|the two prices|men and women] is likely to [narrow|widen] next
    [year|quarter] .
the committee will [publish|discuss|vote on] its report [in {month}|on {day}|next week] .
[doctors|nurses|teachers|drivers] want {n9} percent more and a [shorter|safer] week .
the [bears|bulls|jets|eagles|tigers] were fed at noon , and the [keeper|crowd] stayed behind the glass .
a giant [wave|crane|tent] fell on the [pier|market|stage] at {n9} o'clock .
the [baker|cook|farmer] and the [clerk|porter|priest] shared a [ticket|field|prize] of {n900} dollars .
she has [won|lost] {n9} of her last {n9} [races|games|cases] .
[people|times|things] have changed , and the [office|house|paper] has not .
the [train|bus|ferry] was {n90} minutes late [again|for the {ordinal} time|on {day}] .
[green|brown|white] [paint|smoke|dust] covered the [square|court|yard] [by {day}|for {n9} days|] .
the long [speech|drought|strike|wait] ended after {n9} [hours|days|weeks] .
at a price of {n90} dollars , few [will buy|can afford|want] the [ticket|book|phone] .
the [star|sun|moon] was hidden by cloud for most of the [night|morning|eclipse] .
speed is not the [point|problem|answer] , the [coach|engineer|minister] said .
you may [park|sit|wait] [next to|in front of|behind] the [bank|church|field] [on {day}|] .
the [next|last] page was [blank|torn|missing] .
[banks|shops|schools|ports] will [stay shut|open late|close] on {day} .
hope was all they had , and the [will|grant|cash] came {n9} years late .
the [rangers|saints|pirates|giants] of the story are only [children|dogs|shadows] .
the union [rejected|accepted] the {ordinal} offer by {n300} votes to {n90} .
a [jaguar|falcon|beetle|cobra] was seen near the [school|lake|camp] [on {day}|at dawn|twice this week] .
[bread|milk|petrol|salt] is [scarce|dear|cheap] and the [queues|prices] are [long|high] .
the [windows|roof|walls] of the [chapel|station|prison] will be [repaired|replaced] by {month} .
"""

DOMAINS = {
    "business": BUSINESS,
    "sport": SPORT,
    "politics": POLITICS,
    "weather": WEATHER,
    "culture": CULTURE,
    "general": GENERAL,
    "plain": PLAIN,
}

# The beginning, the repeated item and the end of very long sentences.
LONG = [
    ("results of the {event} in {city} on {day} :", "{person} ( {country} ) {n90}.{n90}", "."),
    ("the final table :", "{club} {n90} points", "."),
    ("the {agency} published the names of those who signed the letter :", "{person} of {city}", "."),
    ("{company} said it would close its shops in", "{city}", ", {country} , by {month} ."),
    ("closing prices in {city} :", "{company} {n300}.{n90}", "."),
    ("temperatures at noon :", "{city} {n40} degrees", "."),
]

PHRASES = {
    "ordinal": "second third fourth fifth sixth seventh eighth ninth".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
}

# Slot -> its lowest number, highest number and format.
NUMBERS = {
    "n4": (0, 4, "{}"),
    "n6": (0, 7, "{}"),
    "n9": (2, 9, "{}"),
    "n31": (1, 31, "{}"),
    "n40": (10, 44, "{}"),
    "n90": (11, 98, "{}"),
    "n300": (102, 698, "{}"),
    "n900": (110, 990, "{}"),
    "year": (1948, 2023, "{}"),
}
