"""The texts `precast demo` searches: short passages of works in the public domain, with their author, title and year.

Translations are by translators who died before 1955, or were published before 1929. Python and not a data file, so that
every kind of install has it.
"""

from __future__ import annotations

__all__ = ["PASSAGES", "QUERIES"]

# (query, the beginning of the source whose passage answers it). No query shares more than small words with its answer.
QUERIES: tuple[tuple[str, str], ...] = (
    ("How did the Romans make concrete that sets under water?", "Vitruvius"),
    ("Can a computer have ideas of its own?", "Ada Lovelace"),
    ("mothers looking for a rich son-in-law", "Jane Austen, Pride"),
    ("extraterrestrials are spying on us", "H. G. Wells, The War"),
    ("Where did all the different animals and plants come from?", "Charles Darwin"),
    ("Why do shopkeepers sell us food?", "Adam Smith"),
)

PASSAGES: tuple[tuple[str, str], ...] = (
    (
        "There is also a kind of powder which from natural causes produces astonishing results. It is found in the "
        "neighbourhood of Baiae and in the country belonging to the towns round about Mt. Vesuvius. This substance, "
        "when mixed with lime and rubble, not only lends strength to buildings of other kinds, but even when piers of "
        "it are constructed in the sea, they set hard under water.",
        "Vitruvius, The Ten Books on Architecture, II.6 (tr. M. H. Morgan, 1914)",
    ),
    (
        "The Analytical Engine has no pretensions whatever to originate anything. It can do whatever we know how to "
        "order it to perform. It can follow analysis; but it has no power of anticipating any analytical relations or "
        "truths.",
        "Ada Lovelace, Notes on the Analytical Engine, Note G (1843)",
    ),
    (
        "We may say most aptly that the Analytical Engine weaves algebraical patterns just as the Jacquard-loom weaves "
        "flowers and leaves.",
        "Ada Lovelace, Notes on the Analytical Engine, Note A (1843)",
    ),
    (
        "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of "
        "a wife.",
        "Jane Austen, Pride and Prejudice (1813)",
    ),
    (
        "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to unite "
        "some of the best blessings of existence; and had lived nearly twenty-one years in the world with very little "
        "to distress or vex her.",
        "Jane Austen, Emma (1815)",
    ),
    (
        "No one would have believed in the last years of the nineteenth century that this world was being watched "
        "keenly and closely by intelligences greater than man's and yet as mortal as his own.",
        "H. G. Wells, The War of the Worlds (1898)",
    ),
    (
        "The stranger came early in February, one wintry day, through a biting wind and a driving snow, the last "
        "snowfall of the year, over the down, walking from Bramblehurst railway station, and carrying a little black "
        "portmanteau in his thickly gloved hand.",
        "H. G. Wells, The Invisible Man (1897)",
    ),
    (
        "There is grandeur in this view of life, with its several powers, having been originally breathed into a few "
        "forms or into one; and that, whilst this planet has gone cycling on according to the fixed law of gravity, "
        "from so simple a beginning endless forms most beautiful and most wonderful have been, and are being, evolved.",
        "Charles Darwin, On the Origin of Species (1859)",
    ),
    (
        "It is not from the benevolence of the butcher, the brewer, or the baker that we expect our dinner, but from "
        "their regard to their own interest.",
        "Adam Smith, The Wealth of Nations, I.2 (1776)",
    ),
    (
        "One man draws out the wire, another straights it, a third cuts it, a fourth points it, a fifth grinds it at "
        "the top for receiving the head.",
        "Adam Smith, The Wealth of Nations, I.1 (1776)",
    ),
    (
        "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and "
        "nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of "
        "the world.",
        "Herman Melville, Moby-Dick (1851)",
    ),
    (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
        "it was the epoch of belief, it was the epoch of incredulity.",
        "Charles Dickens, A Tale of Two Cities (1859)",
    ),
    (
        "Oh! But he was a tight-fisted hand at the grindstone, Scrooge! a squeezing, wrenching, grasping, scraping, "
        "clutching, covetous, old sinner!",
        "Charles Dickens, A Christmas Carol (1843)",
    ),
    (
        "Annual income twenty pounds, annual expenditure nineteen nineteen and six, result happiness. Annual income "
        "twenty pounds, annual expenditure twenty pounds ought and six, result misery.",
        "Charles Dickens, David Copperfield (1850)",
    ),
    (
        "Fog everywhere. Fog up the river, where it flows among green aits and meadows; fog down the river, where it "
        "rolls defiled among the tiers of shipping and the waterside pollutions of a great (and dirty) city.",
        "Charles Dickens, Bleak House (1853)",
    ),
    (
        "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once "
        "or twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it.",
        "Lewis Carroll, Alice's Adventures in Wonderland (1865)",
    ),
    (
        "Now, here, you see, it takes all the running you can do, to keep in the same place. If you want to get "
        "somewhere else, you must run at least twice as fast as that!",
        "Lewis Carroll, Through the Looking-Glass (1871)",
    ),
    (
        "How often have I said to you that when you have eliminated the impossible, whatever remains, however "
        "improbable, must be the truth?",
        "Arthur Conan Doyle, The Sign of the Four (1890)",
    ),
    (
        "It is a capital mistake to theorize before one has data. Insensibly one begins to twist facts to suit "
        "theories, instead of theories to suit facts.",
        "Arthur Conan Doyle, A Scandal in Bohemia (1891)",
    ),
    (
        "It was on a dreary night of November that I beheld the accomplishment of my toils. With an anxiety that "
        "almost amounted to agony, I collected the instruments of life around me, that I might infuse a spark of being "
        "into the lifeless thing that lay at my feet.",
        "Mary Shelley, Frankenstein (1818)",
    ),
    (
        "Fifteen men on the dead man's chest, yo-ho-ho, and a bottle of rum! Drink and the devil had done for the "
        "rest, yo-ho-ho, and a bottle of rum!",
        "Robert Louis Stevenson, Treasure Island (1883)",
    ),
    (
        "Tom said to himself that it was not such a hollow world, after all. He had discovered a great law of human "
        "action, without knowing it, namely, that in order to make a man or a boy covet a thing, it is only necessary "
        "to make the thing difficult to attain.",
        "Mark Twain, The Adventures of Tom Sawyer (1876)",
    ),
    (
        "I went to the woods because I wished to live deliberately, to front only the essential facts of life, and see "
        "if I could not learn what it had to teach, and not, when I came to die, discover that I had not lived.",
        "Henry David Thoreau, Walden (1854)",
    ),
    (
        "A foolish consistency is the hobgoblin of little minds, adored by little statesmen and philosophers and "
        "divines.",
        "Ralph Waldo Emerson, Self-Reliance (1841)",
    ),
    (
        "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in "
        "Liberty, and dedicated to the proposition that all men are created equal.",
        "Abraham Lincoln, The Gettysburg Address (1863)",
    ),
    (
        "We the People of the United States, in Order to form a more perfect Union, establish Justice, insure domestic "
        "Tranquility, provide for the common defence, promote the general Welfare, and secure the Blessings of Liberty "
        "to ourselves and our Posterity, do ordain and establish this Constitution.",
        "Constitution of the United States, Preamble (1787)",
    ),
    (
        "Congress shall make no law respecting an establishment of religion, or prohibiting the free exercise thereof; "
        "or abridging the freedom of speech, or of the press.",
        "Constitution of the United States, First Amendment (1791)",
    ),
    (
        "If there is no struggle there is no progress. Power concedes nothing without a demand. It never did and it "
        "never will.",
        "Frederick Douglass, West India Emancipation (1857)",
    ),
    (
        "I do not wish them to have power over men; but over themselves.",
        "Mary Wollstonecraft, A Vindication of the Rights of Woman (1792)",
    ),
    (
        "It may seem a strange principle to enunciate as the very first requirement in a Hospital that it should do "
        "the sick no harm.",
        "Florence Nightingale, Notes on Hospitals (1863)",
    ),
    (
        "Every body continues in its state of rest, or of uniform motion in a right line, unless it is compelled to "
        "change that state by forces impressed upon it.",
        "Isaac Newton, Principia, Law I (tr. A. Motte, 1729)",
    ),
    (
        "To every action there is always opposed an equal reaction: or the mutual actions of two bodies upon each "
        "other are always equal, and directed to contrary parts.",
        "Isaac Newton, Principia, Law III (tr. A. Motte, 1729)",
    ),
    (
        "There is no better, there is no more open door by which you can enter into the study of natural philosophy, "
        "than by considering the physical phenomena of a candle.",
        "Michael Faraday, The Chemical History of a Candle (1861)",
    ),
    (
        "A point is that which has no part. A line is breadthless length.",
        "Euclid, Elements, I, definitions (tr. T. L. Heath, 1908)",
    ),
    (
        "All warfare is based on deception. Hence, when able to attack, we must seem unable; when using our forces, we "
        "must seem inactive; when we are near, we must make the enemy believe we are far away.",
        "Sun Tzu, The Art of War (tr. L. Giles, 1910)",
    ),
    (
        "Begin the morning by saying to thyself, I shall meet with the busybody, the ungrateful, arrogant, deceitful, "
        "envious, unsocial.",
        "Marcus Aurelius, Meditations, II (tr. G. Long, 1862)",
    ),
    (
        "Happy families are all alike; every unhappy family is unhappy in its own way.",
        "Leo Tolstoy, Anna Karenina (tr. C. Garnett, 1901)",
    ),
    (
        "A Hare one day ridiculed the short feet and slow pace of the Tortoise, who replied, laughing: Though you be "
        "swift as the wind, I will beat you in a race.",
        "Aesop, The Hare and the Tortoise (tr. G. F. Townsend, 1867)",
    ),
    (
        "A famished Fox saw some clusters of ripe black grapes hanging from a trellised vine. She resorted to all her "
        "tricks to get at them, but wearied herself in vain, for she could not reach them.",
        "Aesop, The Fox and the Grapes (tr. G. F. Townsend, 1867)",
    ),
    (
        "To every thing there is a season, and a time to every purpose under the heaven: a time to be born, and a time "
        "to die; a time to plant, and a time to pluck up that which is planted.",
        "King James Bible, Ecclesiastes 3 (1611)",
    ),
    (
        "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer the slings and arrows of "
        "outrageous fortune, or to take arms against a sea of troubles.",
        "William Shakespeare, Hamlet (1603)",
    ),
    (
        "Shall I compare thee to a summer's day? Thou art more lovely and more temperate: rough winds do shake the "
        "darling buds of May, and summer's lease hath all too short a date.",
        "William Shakespeare, Sonnet 18 (1609)",
    ),
    (
        "Double, double toil and trouble; fire burn, and cauldron bubble. Eye of newt, and toe of frog, wool of bat, "
        "and tongue of dog.",
        "William Shakespeare, Macbeth (1623)",
    ),
    (
        "Once upon a midnight dreary, while I pondered, weak and weary, over many a quaint and curious volume of "
        "forgotten lore, while I nodded, nearly napping, suddenly there came a tapping, as of some one gently rapping.",
        "Edgar Allan Poe, The Raven (1845)",
    ),
    (
        "Two roads diverged in a yellow wood, and sorry I could not travel both and be one traveler, long I stood and "
        "looked down one as far as I could to where it bent in the undergrowth.",
        "Robert Frost, The Road Not Taken (1916)",
    ),
    (
        "Because I could not stop for Death, he kindly stopped for me; the carriage held but just ourselves and "
        "Immortality.",
        "Emily Dickinson, Poems (1890)",
    ),
    (
        "Water, water, every where, and all the boards did shrink; water, water, every where, nor any drop to drink.",
        "Samuel Taylor Coleridge, The Rime of the Ancient Mariner (1798)",
    ),
    (
        "Give me your tired, your poor, your huddled masses yearning to breathe free, the wretched refuse of your "
        "teeming shore.",
        "Emma Lazarus, The New Colossus (1883)",
    ),
    (
        "Great God! this is an awful place and terrible enough for us to have laboured to it without the reward of "
        "priority.",
        "Robert Falcon Scott, journal at the South Pole (1912)",
    ),
)
