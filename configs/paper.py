"""The paper's edits with the paper's settings, on converted released weights.

    python -m imx2mx_jax.main --config=configs/paper.py:person_knight

Needs the scene in data/ (transforms.json and its four photographs) and five converted folders in
weights/; the README says where each comes from and under which licence:

    python -m convert_weights --model=teacher --src=... --dst=weights/teacher
    python -m convert_weights --model=student --src=... --dst=weights/student
    python -m convert_weights --model=student_vae --src=... --dst=weights/student_vae
    python -m convert_weights --model=image_encoder --src=... --dst=weights/image_encoder
    python -m convert_weights --model=metric_clip --src=... --dst=weights/metric_clip

Writes runs/person_knight. Four views, 2150 iterations, about 34 TFLOP each.
"""

from imx2mx_jax import config as settings

EDITS = {  # name: (scene, instruction, text guidance, image guidance)
  "face_venetian_mask": ("face", "Give him a Venetian mask", 7.5, 1.5),
  "face_vampire": ("face", "Turn him into a vampire", 7.5, 1.5),
  "face_elf": ("face", "Turn him into Tolkien Elf", 9.0, 1.5),
  "face_batman": ("face", "Turn him into batman", 7.5, 1.5),
  "face_skull": ("face", "Turn his face into a skull", 7.5, 1.5),
  "face_einstein": ("face", "Turn him into Albert Einstein", 7.5, 1.5),
  "face_van_gogh": ("face", "Turn it to a Van Gogh painting", 7.5, 1.5),
  "face_paint": ("face", "Give him face paint", 7.5, 1.5),
  "bear_panda": ("bear", "Turn the bear to a panda bear", 6.0, 1.5),
  "bear_polar": ("bear", "Turn the bear to a polar bear", 6.0, 1.5),
  "bear_grizzly": ("bear", "Turn the bear to a grizzly bear", 5.5, 1.5),
  "bear_wooden": ("bear", "Turn the bear to a wooden bear", 8.5, 1.5),
  "person_iron_man": ("person-small", "Turn him into Iron Man", 7.5, 1.5),
  "person_robot": ("person-small", "Turn the man into a robot", 5.5, 1.8),
  "person_suit": ("person-small", "Make him in a suit", 6.5, 1.8),
  "person_clown": ("person-small", "Turn him into a clown", 6.0, 1.8),
  "person_marble": ("person-small", "Make him into a marble statue", 7.5, 1.5),
  "person_cowboy": ("person-small", "Turn him into a cowboy with a hat", 6.0, 1.5),
  "person_soldier": ("person-small", "Turn him into a soldier", 7.5, 1.5),
  "person_knight": ("person-small", "Turn him into a knight", 6.0, 1.5),
}

SOURCE_CAPTIONS = {
  "face": "A man with curly hair in a grey jacket",
  "bear": "A stone bear in a garden",
  "person-small": "A man standing next to a wall wearing a blue T-shirt and brown pants",
}
EDITED_CAPTIONS = {
  "face_venetian_mask": "A man with curly hair in a grey jacket with a Venetian mask",
  "face_vampire": "A vampire with curly hair",
  "face_elf": "A Tolkien Elf with curly hair",
  "face_batman": "A batman",
  "face_skull": "A man with a skull head in a grey jacket",
  "face_einstein": "Albert Einstein with curly hair",
  "face_van_gogh": "A Van Gogh painting of a man with curly hair in a jacket",
  "face_paint": "A man with curly hair in a grey jacket with face paint",
  "bear_panda": "A panda bear in a garden",
  "bear_polar": "A polar bear in a garden",
  "bear_grizzly": "A grizzly bear in a garden",
  "bear_wooden": "A wooden bear in a garden",
  "person_iron_man": "An Iron Man standing next to a wall",
  "person_robot": "A robot standing next to a wall",
  "person_suit": "A man standing next to a wall wearing a suit",
  "person_clown": "A clown standing next to a wall",
  "person_marble": "A marble statue of a man next to a wall",
  "person_cowboy": "A cowboy wearing a hat standing next to a wall",
  "person_soldier": "A soldier standing next to a wall",
  "person_knight": "A knight standing next to a wall",
}


def get_config(edit=""):
  scene, instruction, text_guidance, image_guidance = settings.pick(EDITS, edit)
  config = settings.default()
  config.run_dir = f"runs/{edit}"
  config.instruction = instruction
  config.source_caption = SOURCE_CAPTIONS[scene]
  config.edited_caption = EDITED_CAPTIONS[edit]
  config.scene.path = f"data/{scene}"
  config.teacher.text_guidance = text_guidance
  config.teacher.image_guidance = image_guidance
  return config
